//! Names in AWS's dialect: the forms in which a function can be named, qualifiers, and the ARNs of other resources. Pure.

use offshoot_model::{FunctionName, Place};

use super::error::AwsError;

/// The constraint on a function's name where a version may be named with it.
const NAME_PATTERN: &str = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?";
/// The constraint where it may not have a dot.
const PLAIN_NAME_PATTERN: &str = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?";
const QUALIFIER_PATTERN: &str = r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+";
const ALIAS_PATTERN: &str = "(?!^[0-9]+$)([a-zA-Z0-9-_]+)";
/// Longest qualifier.
const MAX_QUALIFIER: usize = 128;

/// A function as a caller named it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named<'a> {
    region: Option<&'a str>,
    account: Option<&'a str>,
    name: &'a str,
    qualifier: Option<&'a str>,
}

/// Takes the parts of a name apart; `None` when it has no form of a name.
fn take_apart(text: &str) -> Option<Named<'_>> {
    let mut rest = text;
    if let Some(arn) = text.strip_prefix("arn:") {
        let (partition, after) = arn.split_once(':')?;
        let plain = |b: u8| b.is_ascii_alphabetic() || b == b'-';
        if !partition.starts_with("aws") || !partition.bytes().all(plain) {
            return None;
        }
        rest = after.strip_prefix("lambda:")?;
    }
    let mut part = |is: fn(&str) -> bool| {
        let (head, tail) = rest.split_once(':').filter(|(head, _)| is(head))?;
        rest = tail;
        Some(head)
    };
    let region = part(is_region);
    let account = part(is_account);
    part(|head| head == "function");
    let (name, qualifier) = match rest.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (rest, None),
    };
    let word = |w: &str, more: &[u8]| {
        !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b) || more.contains(&b))
    };
    let qualified = qualifier.is_none_or(|q| matches!(q, "$LATEST" | "$LATEST.PUBLISHED") || word(q, b""));
    (word(name, b".") && qualified).then_some(Named { region, account, name, qualifier })
}

/// `us-east-1`, `us-gov-west-1`, `eusc-de-east-1`.
pub(super) fn is_region(text: &str) -> bool {
    let text = text.strip_prefix("eusc-").unwrap_or(text);
    let parts: Vec<&str> = text.split('-').collect();
    let lower = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase());
    let plain = |country: &str, place: &str, number: &str| {
        country.len() == 2
            && lower(country)
            && lower(place)
            && number.len() == 1
            && number.bytes().all(|b| b.is_ascii_digit())
    };
    match parts[..] {
        [country, place, number] => plain(country, place, number),
        [country, gov, place, number] => {
            (gov == "gov" || (gov.starts_with("iso") && gov.len() <= 4)) && plain(country, place, number)
        }
        _ => false,
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

/// The function and the version that a request names, in the path and in its query.
pub(super) fn function(
    text: &str,
    qualifier: Option<&str>,
    here: &Place,
) -> Result<(FunctionName, Option<String>), AwsError> {
    function_or(text, qualifier, here, None)
}

/// The same; `shown` is the version that errors name where the request names none.
pub(super) fn function_or(
    text: &str,
    qualifier: Option<&str>,
    here: &Place,
    shown: Option<&str>,
) -> Result<(FunctionName, Option<String>), AwsError> {
    let pattern = format!("Member must satisfy regular expression pattern: {NAME_PATTERN}");
    let named = take_apart(text);
    let long = qualifier.filter(|q| q.len() > MAX_QUALIFIER);
    let odd =
        qualifier.filter(|q| q.is_empty() || !q.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_$".contains(&b)));
    let odd = odd.filter(|q| *q != "$LATEST.PUBLISHED");
    let mut broken = Vec::new();
    let longest = format!("Member must have length less than or equal to {MAX_QUALIFIER}");
    let shape = format!("Member must satisfy regular expression pattern: {QUALIFIER_PATTERN}");
    broken.extend(long.map(|q| (q, "qualifier", longest.as_str())));
    broken.extend(odd.map(|q| (q, "qualifier", shape.as_str())));
    if named.is_none() {
        broken.push((text, "functionName", pattern.as_str()));
    }
    let (Some(named), true) = (named, broken.is_empty()) else { return Err(AwsError::constraints(&broken)) };
    if let (Some(a), Some(b)) = (named.qualifier, qualifier)
        && a != b
    {
        let message = "The derived qualifier from the function name does not match the specified qualifier.";
        return Err(AwsError::invalid(message));
    }
    check_place(&named, here)?;
    let qualifier = qualifier.or(named.qualifier).map(str::to_owned);
    let name = FunctionName::parse(named.name).map_err(|_| {
        let arn = here.function(named.name, qualifier.as_deref().or(shown));
        AwsError::not_found(format!("Function not found: {arn}"))
    })?;
    Ok((name, qualifier))
}

fn check_place(named: &Named<'_>, here: &Place) -> Result<(), AwsError> {
    if let Some(region) = named.region.filter(|r| *r != here.region) {
        let message = format!("Functions from '{region}' are not reachable in this region ('{}')", here.region);
        return Err(AwsError::not_found(message));
    }
    match named.account {
        Some(account) if account != here.account => Err(AwsError::foreign()),
        _ => Ok(()),
    }
}

/// The name of a function that is to be made. An ARN will do; a version will not.
pub(super) fn new_function(text: &str, here: &Place) -> Result<FunctionName, AwsError> {
    let longest = "Member must have length less than or equal to 140";
    let pattern = format!("Member must satisfy regular expression pattern: {PLAIN_NAME_PATTERN}");
    let named = take_apart(text).filter(|n| !n.name.contains('.') && n.qualifier != Some("$LATEST.PUBLISHED"));
    let mut broken = Vec::new();
    if text.len() > 140 {
        broken.push((text, "functionName", longest));
    }
    if named.is_none() {
        broken.push((text, "functionName", pattern.as_str()));
    }
    let (Some(named), true) = (named, broken.is_empty()) else { return Err(AwsError::constraints(&broken)) };
    check_place(&named, here)?;
    if let Some(qualifier) = named.qualifier {
        return Err(AwsError::invalid(format!(
            "A function is made without a version or an alias: leave ':{qualifier}' out of the FunctionName"
        )));
    }
    FunctionName::parse(named.name).map_err(|_| {
        let shown = named.name;
        AwsError::invalid(format!(
            "1 validation error detected: Value '{shown}' at 'functionName' failed to satisfy constraint: Member must have length less than or equal to 64"
        ))
    })
}

/// The name of an alias: not a number.
pub(super) fn alias(text: &str) -> Result<String, AwsError> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if plain && !text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= MAX_QUALIFIER {
        return Ok(text.to_owned());
    }
    let pattern = format!("Member must satisfy regular expression pattern: {ALIAS_PATTERN}");
    Err(AwsError::constraint(text, "name", &pattern))
}

/// The name of a layer, or its ARN without a version.
pub(super) fn layer(text: &str, here: &Place) -> Result<String, AwsError> {
    let pattern = "Member must satisfy regular expression pattern: (arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+";
    let parts: Vec<&str> = text.split(':').collect();
    let name = match parts[..] {
        [name] => name,
        ["arn", _, "lambda", region, account, "layer", name] => {
            if account != here.account || region != here.region {
                return Err(AwsError::foreign());
            }
            name
        }
        _ => return Err(AwsError::constraint(text, "layerName", pattern)),
    };
    let plain = !name.is_empty() && name.len() <= 140;
    if plain && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Ok(name.to_owned());
    }
    Err(AwsError::constraint(text, "layerName", pattern))
}

/// What a tag or a policy is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resource {
    /// A function, perhaps a version of it.
    Function(FunctionName, Option<String>),
    /// An event source mapping.
    Mapping(String),
}

/// A resource by its ARN.
pub(super) fn resource(arn: &str, here: &Place) -> Result<Resource, AwsError> {
    const PATTERN: &str = r"Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|capacity-provider:[a-zA-Z0-9-_]+)";
    let odd = || AwsError::constraint(arn, "resource", PATTERN);
    let parts: Vec<&str> = arn.split(':').collect();
    match parts[..] {
        ["arn", partition, "lambda", region, account, kind, ..]
            if partition.starts_with("aws") && is_region(region) && is_account(account) =>
        {
            match kind {
                "function" if take_apart(arn).is_some_and(|named| !named.name.contains('.')) => {
                    let (name, qualifier) = function(arn, None, here)?;
                    Ok(Resource::Function(name, qualifier))
                }
                "event-source-mapping" if parts.len() == 7 && is_uuid(parts[6]) => {
                    if *account != here.account {
                        return Err(AwsError::foreign());
                    }
                    // Another partition or region: there is nothing by that name here.
                    if arn != here.lambda(&format!("event-source-mapping:{}", parts[6])) {
                        return Err(AwsError::not_found(format!("Event source mapping not found: {arn}")));
                    }
                    Ok(Resource::Mapping(parts[6].to_owned()))
                }
                // There are none, so it is not there.
                "capacity-provider" if parts.len() == 7 && is_word(parts[6]) => {
                    Err(AwsError::not_found(format!("Capacity provider not found: {arn}")))
                }
                _ => Err(odd()),
            }
        }
        _ => Err(odd()),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// The ARN of a layer version, without its number, and the number.
pub(super) fn layer_version(arn: &str) -> Option<(&str, &str)> {
    let (stem, number) = arn.rsplit_once(':')?;
    let parts: Vec<&str> = stem.split(':').collect();
    let ["arn", _, "lambda", region, account, "layer", name] = parts[..] else { return None };
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (plain && is_region(region) && is_account(account) && is_word(name) && arn.len() <= 2048).then_some((stem, number))
}

/// The id of a code signing configuration, by its ARN.
pub(super) fn signing<'a>(arn: &'a str, here: &Place) -> Result<&'a str, AwsError> {
    const PATTERN: &str = r"Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:code-signing-config:csc-[a-z0-9]{17}";
    let parts: Vec<&str> = arn.split(':').collect();
    let letters = |l: &str| l.len() == 17 && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    match parts[..] {
        ["arn", partition, "lambda", region, account, "code-signing-config", id]
            if partition.starts_with("aws")
                && is_region(region)
                && is_account(account)
                && id.strip_prefix("csc-").is_some_and(letters) =>
        {
            if account != here.account {
                return Err(AwsError::foreign());
            }
            Ok(id)
        }
        _ => Err(AwsError::constraint(arn, "codeSigningConfigArn", PATTERN)),
    }
}

fn is_uuid(text: &str) -> bool {
    let sizes: Vec<usize> = text.split('-').map(str::len).collect();
    sizes == [8, 4, 4, 4, 12] && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Place {
        Place::default()
    }
    fn named(text: &str, qualifier: Option<&str>) -> Result<(String, Option<String>), AwsError> {
        function(text, qualifier, &here()).map(|(n, q)| (n.to_string(), q))
    }
    fn refusal(result: Result<(String, Option<String>), AwsError>) -> String {
        format!("{:?}", result.unwrap_err())
    }

    #[test]
    fn all_forms_name_the_same_function() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
        for text in ["f", "function:f", "000000000000:function:f", arn] {
            assert_eq!(named(text, None).unwrap(), ("f".into(), None), "{text}");
            let qualified = format!("{text}:live");
            assert_eq!(named(&qualified, None).unwrap(), ("f".into(), Some("live".into())), "{text}");
            assert_eq!(named(&qualified, Some("live")).unwrap().1.as_deref(), Some("live"));
        }
        assert_eq!(named("f", Some("$LATEST")).unwrap().1.as_deref(), Some("$LATEST"));
        assert_eq!(new_function(arn, &here()).unwrap().as_str(), "f");
    }

    #[test]
    fn recorded_refusals() {
        assert!(refusal(named("f:1", Some("2"))).contains("derived qualifier"));
        for bad in [
            "*",
            "my-function!",
            "invalid-account:function:my-function",
            "arn:aws:lambda:invalid-region:111111111111:function:my-function",
            "arn:aws:ec2:us-east-1:111111111111:instance:i-1",
            "arn:aws:lambda:us-east-1:000000000000:function:f:1:2",
            "function:f:$LATEST:extra",
            "arn:aws:lambda::000000000000:function:f",
            "arn:aws:lambda:us-east-1::function:f",
            "f:$LATES",
            "",
        ] {
            let said = refusal(named(bad, None));
            assert!(said.contains("ValidationException") && said.contains("'functionName'"), "{bad}: {said}");
        }
        assert!(refusal(named("f", Some("invalid!"))).contains("'qualifier'"));
        assert!(refusal(named("f", Some(&"a".repeat(129)))).contains("less than or equal to 128"));
        assert!(refusal(named(&"a".repeat(65), None)).contains("Function not found"));
        let far = refusal(named("arn:aws:lambda:ap-southeast-1:000000000000:function:f", None));
        assert!(far.contains("Functions from 'ap-southeast-1' are not reachable in this region ('us-east-1')"));
        assert!(refusal(named("111111111111:function:f", None)).contains("AccessDenied"));
        assert!(format!("{:?}", new_function(&"a".repeat(65), &here())).contains("equal to 64"));
        assert!(format!("{:?}", new_function("f:$latest", &here())).contains("ValidationException"));
        for qualified in ["f:1", "f:live", "f:$LATEST", "arn:aws:lambda:us-east-1:000000000000:function:f:7"] {
            let said = format!("{:?}", new_function(qualified, &here()));
            assert!(said.contains("without a version or an alias"), "{qualified}: {said}");
        }
    }

    #[test]
    fn resources_are_those_of_this_place() {
        let uuid = "0f1e2d3c-0000-4000-8000-0123456789ab";
        let mapping = |place: &str| resource(&format!("{place}:event-source-mapping:{uuid}"), &here());
        assert!(matches!(mapping("arn:aws:lambda:us-east-1:000000000000"), Ok(Resource::Mapping(id)) if id == uuid));
        let said = |place: &str| mapping(place).map(drop).map_err(|e| format!("{e:?}")).unwrap_err();
        assert!(said("arn:aws:lambda:us-east-1:111111111111").contains("AccessDenied"));
        for far in ["arn:aws:lambda:eu-west-1:000000000000", "arn:aws-cn:lambda:us-east-1:000000000000"] {
            assert!(said(far).contains("Event source mapping not found"), "{far}");
        }
        for bad in ["f:1:2", "f!", "", "f:$LATES"] {
            let arn = format!("arn:aws:lambda:us-east-1:000000000000:function:{bad}");
            let said = format!("{:?}", resource(&arn, &here()).map(drop).unwrap_err());
            assert!(said.contains("'resource'"), "{arn}: {said}");
        }
    }

    #[test]
    fn aliases_are_not_numbers() {
        assert!(alias("live-1_2").is_ok());
        for bad in ["", "2024", "a b", "a:b", "$LATEST"] {
            assert!(alias(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn regions() {
        for good in ["us-east-1", "eu-central-2", "us-gov-west-1", "us-iso-east-1", "us-isob-east-1", "eusc-de-east-1"]
        {
            assert!(is_region(good), "{good}");
        }
        for bad in ["", "us", "invalid-region", "us-east-12", "US-EAST-1", "us-x-east-1"] {
            assert!(!is_region(bad), "{bad}");
        }
    }
}
