//! `VpcConfig`: which subnets and security groups a function names, checked with the server that knows them, as AWS checks
//! them. What is kept is shown; a box's network does not depend on it.

use std::time::Duration;

use offshoot_model::xml;
use serde_json::{Value, json};

use super::types::Vpc;
use super::{Catalog, Fault, Rule, fault};
use crate::sources::{Remote, RemoteError, Service};

/// How long the server that knows subnets may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Catalog {
    /// The network of a request. One without subnets and groups takes a function out of it (AWS).
    pub(super) async fn find_vpc(&self, given: Option<Vpc>) -> Result<Option<Vpc>, Fault> {
        let Some(mut vpc) = given else { return Ok(None) };
        if vpc.subnet_ids.is_empty() && vpc.security_group_ids.is_empty() {
            return Ok(Some(vpc));
        }
        let Some(remote) = self.board.remote().filter(|remote| remote.reaches(Service::Ec2)) else {
            let text =
                "VpcConfig needs a server that knows subnets and security groups: name its address with ec2_endpoint.";
            return Err(fault(Rule::Unsupported, text));
        };
        // In this order: of two that are missing, the group is named (recorded from AWS).
        self.describe(remote, "DescribeSecurityGroups", "GroupId", &vpc.security_group_ids).await?;
        let subnets = self.describe(remote, "DescribeSubnets", "SubnetId", &vpc.subnet_ids).await?;
        vpc.vpc_id = xml::element(&subnets, "vpcId").unwrap_or_default();
        Ok(Some(vpc))
    }

    async fn describe(
        &self,
        remote: &dyn Remote,
        operation: &'static str,
        member: &str,
        ids: &[String],
    ) -> Result<String, Fault> {
        let input: serde_json::Map<String, Value> =
            ids.iter().zip(1..).map(|(id, number)| (format!("{member}.{number}"), json!(id))).collect();
        let answer = remote.call(Service::Ec2, &self.place.region, operation, Value::Object(input), PATIENCE).await;
        match answer {
            Ok(document) => Ok(document.as_str().unwrap_or_default().to_owned()),
            // AWS's sentence (recorded).
            Err(RemoteError { code: Some(code), message }) => {
                let text =
                    format!("Error occurred while {operation}. EC2 Error Code: {code}. EC2 Error Message: {message}");
                Err(fault(Rule::Invalid, text))
            }
            Err(error) => Err(fault(Rule::Invalid, format!("Error occurred while {operation}: {error}"))),
        }
    }
}
