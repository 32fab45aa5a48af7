//! Checkpoint tokens and the ids of callbacks and executions: what they say, written in the characters that AWS's service
//! model allows (`[A-Za-z0-9+/]+={0,2}`). Hexadecimal digits, so that they may stand in a path as they are.
//!
//! A token is good for one checkpoint of one invocation. Nothing here decides whether it still is.

/// What a checkpoint token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The execution.
    pub execution: String,
    /// The invocation's request id.
    pub invocation: String,
    /// How many checkpoints that invocation has made.
    pub sequence: u64,
}

/// Digits of an id without its dashes.
const ID: usize = 32;

impl Token {
    /// As text.
    pub fn text(&self) -> String {
        format!("{}{}{:016x}", plain(&self.execution), plain(&self.invocation), self.sequence)
    }

    /// Reads one; `None`: it is none of ours.
    pub fn parse(text: &str) -> Option<Token> {
        if text.len() != 2 * ID + 16 || !is_hex(text) {
            return None;
        }
        let (ids, sequence) = text.split_at(2 * ID);
        let (execution, invocation) = ids.split_at(ID);
        let sequence = u64::from_str_radix(sequence, 16).ok()?;
        Some(Token { execution: dashed(execution), invocation: dashed(invocation), sequence })
    }
}

/// The id of a callback.
pub fn callback(execution: &str, operation: &str) -> String {
    let operation: String = operation.bytes().map(|b| format!("{b:02x}")).collect();
    format!("{}{operation}", plain(execution))
}

/// The execution and the operation of a callback; `None`: it is none of ours.
pub fn parse_callback(text: &str) -> Option<(String, String)> {
    if text.len() <= ID || text.len() > ID + 128 || !text.len().is_multiple_of(2) || !is_hex(text) {
        return None;
    }
    let (execution, operation) = text.split_at(ID);
    let byte = |at: usize| u8::from_str_radix(operation.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..operation.len()).step_by(2).map(byte).collect();
    Some((dashed(execution), String::from_utf8(bytes?).ok()?))
}

/// The execution that an ARN names (`…:function:NAME:VERSION/durable-execution/NAME/ID`); `None`: it names none.
pub fn parse_arn(arn: &str) -> Option<&str> {
    let mut parts = arn.split('/');
    let (_, kind, _, id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && kind == "durable-execution" && arn.starts_with("arn:") && arn.len() <= 1024)
        .then_some(id)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn plain(id: &str) -> String {
    id.chars().filter(|c| *c != '-').collect()
}

fn dashed(hex: &str) -> String {
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "01234567-89ab-4def-8123-456789abcdef";
    const B: &str = "ffffffff-ffff-4fff-bfff-ffffffffffff";

    #[test]
    fn tokens_say_what_they_are_for() {
        let token = Token { execution: A.into(), invocation: B.into(), sequence: 7 };
        assert_eq!(Token::parse(&token.text()), Some(token.clone()));
        for bad in ["", "x", &token.text()[1..], &token.text().to_uppercase(), &"é".repeat(40)] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn callbacks_name_an_operation() {
        let id = callback(A, "1-a_B");
        assert_eq!(parse_callback(&id), Some((A.to_owned(), "1-a_B".to_owned())));
        for bad in ["", "zz", &id[..32], &id[..33], &format!("{}{}", &id[..32], "f".repeat(300)), &"é".repeat(17)] {
            assert_eq!(parse_callback(bad), None, "{bad}");
        }
    }

    #[test]
    fn arns_name_an_execution() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST/durable-execution/n/x-1";
        assert_eq!(parse_arn(arn), Some("x-1"));
        for bad in [
            "",
            "arn:aws:lambda:r:0:function:f",
            "arn:/durable-execution/n",
            "arn:/durable-execution/n/x/y",
            "/durable-execution/n/x",
        ] {
            assert_eq!(parse_arn(bad), None, "{bad}");
        }
    }
}
