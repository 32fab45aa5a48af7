//! Where this server says that it is: a region and an account, and the resource names (ARNs) that follow from them.
//!
//! The names are AWS's form (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>); nothing here asks AWS.

use crate::error::{Error, ErrorKind};

/// A region and an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The region, for example `us-east-1`.
    pub region: String,
    /// The account: twelve digits.
    pub account: String,
}

impl Default for Place {
    fn default() -> Self {
        Place { region: "us-east-1".to_owned(), account: "000000000000".to_owned() }
    }
}

impl Place {
    /// Checks both parts.
    pub fn new(region: &str, account: &str) -> Result<Self, Error> {
        if !is_region(region) {
            let shown: String = region.chars().take(40).flat_map(char::escape_default).collect();
            let text = format!("'{shown}' is not a region: write one like us-east-1 or us-gov-west-1");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::new(ErrorKind::InvalidInput, "an account is twelve digits"));
        }
        Ok(Place { region: region.to_owned(), account: account.to_owned() })
    }

    /// A resource of the service `lambda`, for example `function:hello` or `layer:deps:3`.
    pub fn lambda(&self, resource: &str) -> String {
        format!("arn:aws:lambda:{}:{}:{resource}", self.region, self.account)
    }

    /// A function, by the qualifier that somebody used, if any.
    pub fn function(&self, name: &str, qualifier: Option<&str>) -> String {
        match qualifier {
            None => format!("arn:aws:lambda:{}:{}:function:{name}", self.region, self.account),
            Some(q) => format!("arn:aws:lambda:{}:{}:function:{name}:{q}", self.region, self.account),
        }
    }
}

/// Words of lower-case letters, at least two, and a number, joined by `-`.
fn is_region(text: &str) -> bool {
    let Some((words, number)) = text.rsplit_once('-') else { return false };
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 32 && digits && words.contains('-') && words.split('-').all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_checked_and_name_resources() {
        let here = Place::default();
        assert_eq!(here.function("f", None), "arn:aws:lambda:us-east-1:000000000000:function:f");
        assert_eq!(here.function("f", Some("live")), "arn:aws:lambda:us-east-1:000000000000:function:f:live");
        assert_eq!(here.lambda("layer:l:1"), "arn:aws:lambda:us-east-1:000000000000:layer:l:1");
        assert_eq!(Place::new("eu-west-3", "123456789012").unwrap().account, "123456789012");
        assert_eq!(Place::new("us-gov-west-1", "123456789012").unwrap().region, "us-gov-west-1");
        for (region, account) in [
            ("", "000000000000"),
            ("mars", "000000000000"),
            ("eu--1", "000000000000"),
            ("us-east-x", "000000000000"),
            ("US", "000000000000"),
            ("a:b", "000000000000"),
            ("x", "1"),
        ] {
            assert!(Place::new(region, account).is_err(), "{region} {account}");
        }
    }
}
