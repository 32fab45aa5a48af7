//! Filter patterns of event source mappings: which records reach the function.
//!
//! The language is the part of EventBridge's that AWS Lambda documents
//! (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html>). A pattern is read once; it never changes a record.

use serde_json::{Map, Value};

/// Nested objects of a pattern, at most.
const MAX_DEPTH: usize = 32;

/// All patterns of a mapping: a record passes when one of them fits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    patterns: Vec<Pattern>,
}

/// Members that all have to fit, and choices of which one has to.
#[derive(Debug, Clone, Default, PartialEq)]
struct Pattern {
    members: Vec<(String, Wanted)>,
    choices: Vec<Vec<Pattern>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Within(Pattern),
    OneOf(Vec<Rule>),
}

#[derive(Debug, Clone, PartialEq)]
enum Rule {
    Equals(Value),
    Text(Text),
    Not(Vec<Rule>),
    Numeric(Vec<(Order, f64)>),
    Exists(bool),
}

#[derive(Debug, Clone, PartialEq)]
enum Text {
    Prefix(String),
    Suffix(String),
    IgnoreCase(String),
    PrefixIgnoreCase(String),
    SuffixIgnoreCase(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    Below,
    AtMost,
    Equal,
    AtLeast,
    Above,
}

impl Filter {
    /// Reads `FilterCriteria`. `None`: one of its patterns is not one.
    pub fn parse(criteria: Option<&Value>) -> Option<Filter> {
        let filters = criteria.and_then(|c| c.get("Filters")).and_then(Value::as_array);
        let read = |filter: &Value| {
            let text = filter.get("Pattern").and_then(Value::as_str).unwrap_or_default();
            match serde_json::from_str(text) {
                Ok(Value::Object(map)) => pattern(&map, 0),
                _ => None,
            }
        };
        let patterns = filters.into_iter().flatten().map(read).collect::<Option<_>>()?;
        Some(Filter { patterns })
    }

    /// Whether there is no pattern: everything passes.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a record reaches the function.
    pub fn passes(&self, record: &Value) -> bool {
        self.is_empty() || self.patterns.iter().any(|pattern| pattern.fits(record))
    }
}

fn pattern(map: &Map<String, Value>, depth: usize) -> Option<Pattern> {
    if depth >= MAX_DEPTH {
        return None;
    }
    let mut read = Pattern::default();
    for (key, value) in map {
        match value {
            Value::Array(choices) if key == "$or" => {
                let one = |choice: &Value| pattern(choice.as_object()?, depth + 1);
                read.choices.push(choices.iter().map(one).collect::<Option<_>>()?);
            }
            Value::Array(rules) if !rules.is_empty() => {
                read.members.push((key.clone(), Wanted::OneOf(rules.iter().map(rule).collect::<Option<_>>()?)));
            }
            Value::Object(map) => read.members.push((key.clone(), Wanted::Within(pattern(map, depth + 1)?))),
            _ => return None,
        }
    }
    Some(read)
}

fn rule(value: &Value) -> Option<Rule> {
    let map = match value {
        Value::Object(map) if map.len() == 1 => map,
        Value::Object(_) | Value::Array(_) => return None,
        scalar => return Some(Rule::Equals(scalar.clone())),
    };
    let (name, value) = map.iter().next()?;
    match name.as_str() {
        "exists" => value.as_bool().map(Rule::Exists),
        "numeric" => numeric(value.as_array()?).map(Rule::Numeric),
        "anything-but" => match value {
            Value::Array(all) if !all.is_empty() => {
                let scalar = |v: &Value| (v.is_string() || v.is_number()).then(|| Rule::Equals(v.clone()));
                all.iter().map(scalar).collect::<Option<_>>().map(Rule::Not)
            }
            Value::Object(map) => {
                let (name, value) = map.iter().next().filter(|_| map.len() == 1)?;
                let all = value.as_array().map_or_else(|| vec![value], |all| all.iter().collect());
                all.into_iter().map(|v| text(name, v).map(Rule::Text)).collect::<Option<_>>().map(Rule::Not)
            }
            Value::String(_) | Value::Number(_) => Some(Rule::Not(vec![Rule::Equals(value.clone())])),
            _ => None,
        },
        name => text(name, value).map(Rule::Text),
    }
}

fn text(name: &str, value: &Value) -> Option<Text> {
    let plain = value.as_str().map(str::to_owned);
    let folded = || value.get("equals-ignore-case").and_then(Value::as_str).map(str::to_lowercase);
    match (name, plain) {
        ("prefix", Some(text)) => Some(Text::Prefix(text)),
        ("suffix", Some(text)) => Some(Text::Suffix(text)),
        ("equals-ignore-case", Some(text)) => Some(Text::IgnoreCase(text.to_lowercase())),
        ("prefix", None) => folded().map(Text::PrefixIgnoreCase),
        ("suffix", None) => folded().map(Text::SuffixIgnoreCase),
        _ => None,
    }
}

fn numeric(parts: &[Value]) -> Option<Vec<(Order, f64)>> {
    if !matches!(parts.len(), 2 | 4) {
        return None;
    }
    let order = |v: &Value| match v.as_str()? {
        "<" => Some(Order::Below),
        "<=" => Some(Order::AtMost),
        "=" => Some(Order::Equal),
        ">=" => Some(Order::AtLeast),
        ">" => Some(Order::Above),
        _ => None,
    };
    parts.chunks(2).map(|pair| Some((order(&pair[0])?, pair[1].as_f64()?))).collect()
}

impl Pattern {
    fn fits(&self, value: &Value) -> bool {
        let member = |(key, wanted): &(String, Wanted)| {
            let found = value.get(key);
            match (wanted, found) {
                // A member of a list's elements: one element has to fit.
                (Wanted::Within(pattern), Some(Value::Array(all))) => all.iter().any(|v| pattern.fits(v)),
                (Wanted::Within(pattern), found) => pattern.fits(found.unwrap_or(&Value::Null)),
                (Wanted::OneOf(rules), Some(Value::Array(all))) => rules.iter().any(|rule| match rule {
                    Rule::Exists(wanted) => *wanted,
                    rule => all.iter().any(|v| rule.fits(Some(v))),
                }),
                (Wanted::OneOf(rules), found) => rules.iter().any(|rule| rule.fits(found)),
            }
        };
        self.members.iter().all(member)
            && self.choices.iter().all(|choices| choices.iter().any(|pattern| pattern.fits(value)))
    }
}

impl Rule {
    fn fits(&self, found: Option<&Value>) -> bool {
        let value = match (self, found) {
            // What has members is no value: on AWS it does not exist (recorded; EventBridge's guide, "Exists matching").
            (Rule::Exists(wanted), found) => return *wanted == found.is_some_and(|value| !value.is_object()),
            (_, None) => return false,
            (_, Some(value)) => value,
        };
        match self {
            Rule::Equals(wanted) => match (wanted.as_f64(), value.as_f64()) {
                (Some(a), Some(b)) => a == b,
                _ => wanted == value,
            },
            Rule::Text(text) => value.as_str().is_some_and(|value| text.fits(value)),
            Rule::Not(rules) => {
                (value.is_string() || value.is_number()) && !rules.iter().any(|rule| rule.fits(Some(value)))
            }
            Rule::Numeric(bounds) => value.as_f64().is_some_and(|n| {
                bounds.iter().all(|(order, bound)| match order {
                    Order::Below => n < *bound,
                    Order::AtMost => n <= *bound,
                    Order::Equal => n == *bound,
                    Order::AtLeast => n >= *bound,
                    Order::Above => n > *bound,
                })
            }),
            Rule::Exists(_) => false,
        }
    }
}

impl Text {
    fn fits(&self, value: &str) -> bool {
        match self {
            Text::Prefix(text) => value.starts_with(text),
            Text::Suffix(text) => value.ends_with(text),
            Text::IgnoreCase(text) => value.to_lowercase() == *text,
            Text::PrefixIgnoreCase(text) => value.to_lowercase().starts_with(text),
            Text::SuffixIgnoreCase(text) => value.to_lowercase().ends_with(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filter(patterns: &[&str]) -> Option<Filter> {
        let all: Vec<Value> = patterns.iter().map(|p| json!({"Pattern": p})).collect();
        Filter::parse(Some(&json!({ "Filters": all })))
    }

    #[test]
    fn the_language() {
        for (pattern, fits, fails) in [
            (r#"{"a":["x"]}"#, json!({"a": "x"}), json!({"a": "X"})),
            (r#"{"a":[1]}"#, json!({"a": 1.0}), json!({"a": "1"})),
            (r#"{"a":[null]}"#, json!({"a": null}), json!({})),
            (r#"{"a":[""]}"#, json!({"a": ""}), json!({"a": "x"})),
            (r#"{"a":["x","y"],"b":[true]}"#, json!({"a": "y", "b": true}), json!({"a": "y", "b": false})),
            (r#"{"a":{"b":["x"]}}"#, json!({"a": {"b": "x"}}), json!({"a": "x"})),
            (r#"{"a":[{"prefix":"ab"}]}"#, json!({"a": "abc"}), json!({"a": "cab"})),
            (r#"{"a":[{"suffix":"bc"}]}"#, json!({"a": "abc"}), json!({"a": "bca"})),
            (r#"{"a":[{"prefix":{"equals-ignore-case":"AB"}}]}"#, json!({"a": "abc"}), json!({"a": "b"})),
            (r#"{"a":[{"equals-ignore-case":"ÄB"}]}"#, json!({"a": "äb"}), json!({"a": "ab"})),
            (r#"{"a":[{"anything-but":["x",1]}]}"#, json!({"a": "y"}), json!({"a": 1})),
            (r#"{"a":[{"anything-but":"x"}]}"#, json!({"a": 5}), json!({})),
            (r#"{"a":[{"anything-but":{"prefix":"x"}}]}"#, json!({"a": "yx"}), json!({"a": "xy"})),
            (r#"{"a":[{"numeric":[">",0,"<=",5]}]}"#, json!({"a": 5}), json!({"a": 0})),
            (r#"{"a":[{"numeric":["=",3.5]}]}"#, json!({"a": 3.5}), json!({"a": "3.5"})),
            (r#"{"a":[{"exists":true}]}"#, json!({"a": null}), json!({"b": 1})),
            (r#"{"a":[{"exists":false}]}"#, json!({"b": 1}), json!({"a": 1})),
            (r#"{"a":{"b":[{"exists":false}]}}"#, json!({}), json!({"a": {"b": 1}})),
            (r#"{"a":[{"exists":false}]}"#, json!({"a": {"S": "x"}}), json!({"a": "x"})),
            (r#"{"a":[{"exists":true}]}"#, json!({"a": "x"}), json!({"a": {"S": "x"}})),
            (r#"{"$or":[{"a":[1]},{"b":[2]}],"c":[3]}"#, json!({"b": 2, "c": 3}), json!({"b": 3, "c": 3})),
            (r#"{"a":["x"]}"#, json!({"a": ["y", "x"]}), json!({"a": ["y"]})),
            (r#"{"a":{"b":["x"]}}"#, json!({"a": [{"b": "y"}, {"b": "x"}]}), json!({"a": [{"b": "y"}]})),
        ] {
            let filter = filter(&[pattern]).unwrap_or_else(|| panic!("{pattern}"));
            assert!(filter.passes(&fits), "{pattern} should take {fits}");
            assert!(!filter.passes(&fails), "{pattern} should not take {fails}");
        }
    }

    #[test]
    fn one_of_several_is_enough_and_none_takes_everything() {
        let two = filter(&[r#"{"a":[1]}"#, r#"{"b":[1]}"#]).unwrap();
        assert!(two.passes(&json!({"b": 1})) && !two.passes(&json!({"c": 1})));
        assert!(Filter::parse(None).unwrap().passes(&json!({})));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let deep = format!("{}[1]{}", r#"{"a":"#.repeat(40), "}".repeat(40));
        for bad in [
            "",
            "[]",
            "x",
            r#"{"a":1}"#,
            r#"{"a":"x"}"#,
            r#"{"a":[[1]]}"#,
            r#"{"a":[{"prefix":1}]}"#,
            r#"{"a":[{"wild":"x"}]}"#,
            r#"{"a":[{"numeric":[">"]}]}"#,
            r#"{"a":[{"numeric":["~",1]}]}"#,
            r#"{"a":[{"exists":"yes"}]}"#,
            r#"{"a":[{"prefix":"x","suffix":"y"}]}"#,
            r#"{"$or":[1]}"#,
            &deep,
        ] {
            assert!(filter(&[bad]).is_none(), "{bad}");
        }
    }
}
