//! Loops of functions that call themselves through AWS's clients: the trace header carries how often each function of a chain has run,
//! and a call beyond the limit is not made.
//!
//! AWS Lambda does so with `Lineage` in the trace header and stops after about 16 calls
//! (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html>). AWS's clients in a function send the header on, from
//! `_X_AMZN_TRACE_ID`. An entry is `REQUESTS:FUNCTION:COUNT`: a number that is not used here, eight hexadecimal digits that stand for the
//! function, and how often it has run before. Entries are separated by `|`.

use offshoot_model::{Error, ErrorKind, FunctionName, Invocation, RequestId};

use crate::catalog::Catalog;

/// How often a function runs in one chain.
pub const MAX_RUNS: u32 = 16;
/// Functions of one chain that are remembered; the oldest is forgotten first.
const MAX_ENTRIES: usize = 32;
/// The field of the trace header.
const FIELD: &str = "Lineage=";

/// What stands for a function in a chain (FNV-1a, 32 bits, of its ARN).
fn mark(arn: &str) -> u32 {
    arn.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The entries of a trace header: function and count, oldest first. The form without the first number is read, too.
fn lineage(trace: &str) -> Vec<(u32, u32)> {
    let Some(field) = trace.split(';').find_map(|part| part.trim().strip_prefix(FIELD)) else { return Vec::new() };
    // Some clients percent-encode the separator.
    let field = field.replace("%7C", "|").replace("%7c", "|");
    let entry = |text: &str| {
        let mut parts = text.rsplitn(3, ':');
        let count = parts.next()?.parse().ok()?;
        let mark = parts.next().filter(|m| m.len() == 8).and_then(|m| u32::from_str_radix(m, 16).ok())?;
        Some((mark, count))
    };
    field.split('|').filter_map(entry).take(MAX_ENTRIES).collect()
}

/// How often the function with this ARN has run in the chain that led to this trace.
pub fn runs(trace: Option<&str>, arn: &str) -> u32 {
    let Some(trace) = trace.filter(|t| t.contains(FIELD)) else { return 0 };
    let mark = mark(arn);
    lineage(trace).into_iter().find(|(m, _)| *m == mark).map_or(0, |(_, count)| count.saturating_add(1))
}

/// The trace for one more run of this function.
pub fn next_trace(trace: &str, arn: &str) -> String {
    let mut entries = if trace.contains(FIELD) { lineage(trace) } else { Vec::new() };
    let mark = mark(arn);
    match entries.iter_mut().find(|(m, _)| *m == mark) {
        Some((_, count)) => *count = count.saturating_add(1),
        None => entries.push((mark, 0)),
    }
    let from = entries.len().saturating_sub(MAX_ENTRIES);
    let written: Vec<String> = entries[from..].iter().map(|(mark, count)| format!("1:{mark:08x}:{count}")).collect();
    let others = trace.split(';').filter(|part| !part.is_empty() && !part.trim().starts_with(FIELD));
    let mut out = others.collect::<Vec<_>>().join(";");
    if !out.is_empty() {
        out.push(';');
    }
    out.push_str(FIELD);
    out.push_str(&written.join("|"));
    out
}

/// A new trace, made of a request's id.
pub fn fresh_trace(id: &RequestId, now_ms: u64) -> String {
    let hex: String = id.as_str().chars().filter(|c| *c != '-').collect();
    let (root, parent) = (hex.get(..24).unwrap_or_default(), hex.get(16..).unwrap_or_default());
    format!("Root=1-{:08x}-{root};Parent={parent};Sampled=0", now_ms / 1000)
}

impl Catalog {
    /// The function's ARN, as chains count it: without a version.
    fn chain_arn(&self, function: &FunctionName) -> String {
        self.place().function(function.as_str(), None)
    }

    /// Whether one more run of this function would go on a loop that its settings do not allow.
    pub fn loops(&self, function: &FunctionName, trace: Option<&str>) -> bool {
        runs(trace, &self.chain_arn(function)) >= MAX_RUNS
            && self.recursion(function).is_ok_and(|setting| setting != "Allow")
    }

    /// The trace for one more run of this function, or why it is not made.
    pub fn next_trace(&self, function: &FunctionName, trace: &str) -> Result<String, Error> {
        if !self.loops(function, Some(trace)) {
            return Ok(next_trace(trace, &self.chain_arn(function)));
        }
        tracing::warn!(%function, "it has called itself {MAX_RUNS} times in a chain: the next call is not made");
        let message = format!(
            "{function} has called itself {MAX_RUNS} times in one chain of calls, directly or through others: the loop is stopped; \
             if it is meant, allow it (PutFunctionRecursionConfig, RecursiveLoop=Allow)"
        );
        Err(Error::new(ErrorKind::RecursiveInvocation, message))
    }

    /// Writes one more run of its function into an invocation's trace, or refuses it. Calls without a trace are not counted.
    pub fn count_run<B>(&self, invocation: &mut Invocation<B>) -> Result<(), Error> {
        if let Some(trace) = invocation.context.as_mut().and_then(|c| c.trace.as_mut()) {
            *trace = self.next_trace(&invocation.function, trace)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_counted_by_function() {
        let (a, b) =
            ("arn:aws:lambda:us-east-1:000000000000:function:a", "arn:aws:lambda:us-east-1:000000000000:function:b");
        let mut trace = "Root=1-2-3;Parent=4;Sampled=1".to_owned();
        for run in 0..MAX_RUNS {
            assert_eq!((runs(Some(&trace), a), runs(Some(&trace), b)), (run, run));
            trace = next_trace(&next_trace(&trace, a), b);
        }
        assert_eq!(runs(Some(&trace), a), MAX_RUNS);
        assert!(trace.starts_with("Root=1-2-3;Parent=4;Sampled=1;Lineage=1:"), "{trace}");
        // As AWS's client for Python sends it.
        assert_eq!(runs(Some(&trace.replace('|', "%7C")), b), MAX_RUNS);
        assert_eq!(runs(None, a), 0);
    }

    #[test]
    fn what_is_no_lineage_counts_nothing() {
        for odd in [
            "",
            "Lineage=",
            "Lineage=x",
            "Lineage=1:zz:1",
            "Lineage=1:00000000:-1",
            "Lineage=|||",
            "Root=é;Lineage=:::",
        ] {
            assert_eq!(runs(Some(odd), "a"), 0, "{odd}");
            assert_eq!(runs(Some(&next_trace(odd, "a")), "a"), 1, "{odd}");
        }
        let long = (0..200).fold(String::new(), |trace, n| next_trace(&trace, &format!("f{n}")));
        assert_eq!(lineage(&long).len(), MAX_ENTRIES);
        assert!(long.len() < 1024);
    }

    #[test]
    fn the_older_form_is_read() {
        let arn = "f";
        let trace = format!("Root=1-2-3;Lineage={:08x}:4|a87bd80c:1", mark(arn));
        assert_eq!(runs(Some(&trace), arn), 5);
    }
}
