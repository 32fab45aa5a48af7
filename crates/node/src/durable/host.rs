//! The node as durable executions see it: which version is meant and whether it is durable, and how it is invoked.

use std::sync::Arc;

use bytes::Bytes;
use offshoot_model::{Convention, Error, FunctionName, HttpPart, Invocation, Outcome, Place, RuntimeName};

use super::{Host, Meant};
use crate::catalog::Catalog;
use crate::invoker::Invoker;
use crate::queue::Boxed;
use crate::registry::Registry;

/// The node's own functions.
pub struct NodeHost {
    /// What runs them.
    pub invoker: Arc<Invoker>,
    /// What knows them.
    pub registry: Arc<Registry>,
    /// What counts the runs of a chain of calls.
    pub catalog: Arc<Catalog>,
    /// Where this server says that it is.
    pub place: Place,
}

impl Host for NodeHost {
    fn meant(&self, function: &FunctionName, qualifier: Option<&str>) -> Option<Meant> {
        let version = self.registry.resolve_qualified(function, qualifier, chance())?;
        let durable = version.fields.as_deref().and_then(|f| f.durable);
        Some(Meant { version: version.label(), durable })
    }

    fn is_durable(&self, function: &FunctionName) -> bool {
        let fields = self.registry.resolve(function).and_then(|v| v.fields.clone());
        fields.is_some_and(|fields| fields.durable.is_some())
    }

    fn run(&self, mut invocation: Invocation<Bytes>) -> Boxed<'_, Result<Outcome<Bytes>, Error>> {
        let version = self.registry.resolve_qualified(&invocation.function, invocation.qualifier(), 0.0);
        if version.is_some_and(|v| v.config.convention == Convention::Request) {
            // A plain function that an execution calls may be one of the `request` convention.
            invocation.http = Some(HttpPart {
                method: "POST".to_owned(),
                path: "/".to_owned(),
                query: String::new(),
                headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            });
        }
        Box::pin(self.invoker.invoke(invocation))
    }

    fn runtime(&self, function: &FunctionName) -> Option<RuntimeName> {
        self.registry.resolve(function).map(|v| v.config.runtime)
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn next_trace(&self, function: &FunctionName, trace: &str) -> Result<String, Error> {
        self.catalog.next_trace(function, trace)
    }
}

/// A number from 0 to 1, for the choice between the versions of an alias; without random numbers always the first.
fn chance() -> f64 {
    let mut bytes = [0u8; 4];
    getrandom::fill(&mut bytes).map_or(1.0, |()| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
