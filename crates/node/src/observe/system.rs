//! What the platform itself writes into a function's log: AWS's `START`, `END` and `REPORT` lines, or with the log format
//! `JSON` AWS's platform events (`platform.start`, `platform.report`, …), of those levels that the function asked for. And
//! which of the function's own lines are kept when it asked for a level.
//!
//! The events' members and levels are those of AWS's "Telemetry API Event schema reference" and "Log-level filtering".

use bytes::Bytes;
use offshoot_model::invocation::FailureCause;
use offshoot_model::{Answer, FunctionError, Phases, Report, RequestId, RuntimeName, StartKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::lines::{end_line, report_line, start_line, whole_ms};
use crate::catalog::types::Logging;

/// How much something matters, as AWS orders it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "TRACE" => Level::Trace,
            "DEBUG" => Level::Debug,
            "INFO" => Level::Info,
            "WARN" | "WARNING" => Level::Warn,
            "ERROR" => Level::Error,
            "FATAL" | "CRITICAL" => Level::Fatal,
            _ => return None,
        })
    }
}

/// How the log of one version looks.
#[derive(Debug, Clone, Copy)]
pub struct SystemLog {
    json: bool,
    /// The platform's events below this are not written.
    system: Level,
    /// The function's lines below this are not kept. `None`: all are.
    application: Option<Level>,
}

impl Default for SystemLog {
    fn default() -> Self {
        SystemLog { json: false, system: Level::Info, application: None }
    }
}

/// A start, for its events.
#[derive(Debug, Clone, Copy)]
pub struct InitAbout<'a> {
    /// Where it starts from.
    pub kind: StartKind,
    /// The function.
    pub name: &'a str,
    /// `$LATEST` or a number.
    pub version: &'a str,
    /// What it runs on.
    pub runtime: RuntimeName,
    /// AWS's name of how instances come to be: `on-demand` and so on.
    pub initialization: &'static str,
}

/// The end of an invocation.
#[derive(Debug, Clone, Copy)]
pub struct CallEnd<'a> {
    /// The invocation.
    pub id: &'a RequestId,
    /// How its instance came to be.
    pub kind: StartKind,
    /// Where its time went.
    pub phases: &'a Phases,
    /// What it used.
    pub report: &'a Report,
    /// The caller's trace header.
    pub trace: Option<&'a str>,
    /// What came of it; an error here is the platform's account of it.
    pub result: &'a Result<Answer<Bytes>, (FailureCause, String)>,
}

impl SystemLog {
    /// As `LoggingConfig` says. Levels count with the format `JSON` only (AWS).
    pub fn of(logging: &Logging) -> Self {
        if logging.log_format != "JSON" {
            return SystemLog::default();
        }
        let level = |text: &Option<String>| text.as_deref().and_then(Level::parse).unwrap_or(Level::Info);
        let application = Some(level(&logging.application_log_level)).filter(|level| *level > Level::Trace);
        SystemLog { json: true, system: level(&logging.system_log_level), application }
    }

    /// The first line of an invocation.
    pub fn start(&self, id: &RequestId, version: Option<u64>, trace: Option<&str>) -> Option<String> {
        if !self.json {
            return Some(start_line(id, version));
        }
        let version = version.map_or_else(|| "$LATEST".to_owned(), |number| number.to_string());
        let record = Members::new().with("requestId", id).with("version", version).traced(trace);
        self.event(Level::Info, "platform.start", record)
    }

    /// The last lines of an invocation.
    pub fn end(&self, end: &CallEnd<'_>) -> Vec<String> {
        if !self.json {
            let fault =
                end.result.as_ref().err().map(|(cause, body)| format!("offshoot: {}: {body}", cause.error_type()));
            let lines = [end_line(end.id), report_line(end.id, end.kind, end.phases, end.report)];
            return fault.into_iter().chain(lines).collect();
        }
        let (status, kind) = status_of(end.result);
        let level = |good: Level| if status == "success" { good } else { Level::Warn };
        let record = |metrics: Members| {
            let record = Members::new().with("requestId", end.id).raw("metrics", &metrics.text());
            record.with("status", status).maybe("errorType", kind).traced(end.trace)
        };
        let produced = match end.result {
            Ok(Answer::Reply { body, .. }) => body.len(),
            Ok(Answer::Failed(error)) => error.body.len(),
            Err(_) => 0,
        };
        let done = Members::new().with("durationMs", milliseconds(end.phases.run)).with("producedBytes", produced);
        let events = [
            end.result.as_ref().err().map(|(cause, body)| fault(end.id, *cause, body)),
            self.event(level(Level::Debug), "platform.runtimeDone", record(done)),
            self.event(level(Level::Info), "platform.report", record(metrics(end))),
        ];
        events.into_iter().flatten().collect()
    }

    /// The last lines of an invocation whose caller went away.
    pub fn given_up(&self, id: &RequestId, why: String) -> Vec<String> {
        if self.json { vec![self.remark(Some(id.as_str()), why)] } else { vec![why, end_line(id)] }
    }

    /// What is written when a start begins.
    pub fn init_start(&self, about: &InitAbout<'_>) -> Option<String> {
        let record = about.members().with("functionName", about.name).with("functionVersion", about.version);
        let record = record.with("runtimeVersion", runtime_version(about.runtime));
        self.event(Level::Info, about.events()[0], record)
    }

    /// What is written when it is over, and how it failed if it did.
    pub fn init_done(&self, about: &InitAbout<'_>, took: Duration, failed: Option<&FunctionError>) -> Vec<String> {
        let status = if failed.is_some() { "error" } else { "success" };
        let record = || about.members().with("status", status).maybe("errorType", failed.map(told_type));
        let level = |good: Level| if failed.is_some() { Level::Warn } else { good };
        let on_demand = about.kind != StartKind::Restore && about.initialization == "on-demand";
        let report = if on_demand { Level::Debug } else { Level::Info };
        let took = Members::new().with("durationMs", milliseconds(took)).text();
        let [_, done, reported] = about.events();
        let events = [
            self.event(level(Level::Debug), done, record()),
            self.event(level(report), reported, record().raw("metrics", &took)),
        ];
        events.into_iter().flatten().collect()
    }

    /// A remark of the platform, in this log's shape.
    pub fn remark(&self, id: Option<&str>, text: String) -> String {
        if !self.json {
            return text;
        }
        let record = Members::new().with("timestamp", timestamp(now_ms())).with("level", "WARN");
        record.maybe("requestId", id).with("message", text).text()
    }

    fn event(&self, level: Level, name: &str, record: Members) -> Option<String> {
        let written = self.json && level >= self.system;
        let event =
            || Members::new().with("time", timestamp(now_ms())).with("type", name).raw("record", &record.text());
        written.then(|| event().text())
    }

    /// Whether a line that the function wrote is kept. A line has the level that its JSON names, else `INFO` (AWS).
    pub fn keeps(&self, line: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Leveled<'a> {
            #[serde(borrow)]
            level: Option<std::borrow::Cow<'a, str>>,
        }
        let Some(least) = self.application else { return true };
        let named = match line.first() {
            Some(b'{') => serde_json::from_slice::<Leveled<'_>>(line).ok().and_then(|l| l.level),
            _ => None,
        };
        named.and_then(|text| Level::parse(&text)).unwrap_or(Level::Info) >= least
    }
}

impl InitAbout<'_> {
    fn events(&self) -> [&'static str; 3] {
        if self.kind == StartKind::Restore { RESTORE } else { INIT }
    }
    fn members(&self) -> Members {
        match self.kind {
            StartKind::Restore => Members::new(),
            _ => Members::new().with("initializationType", self.initialization).with("phase", "init"),
        }
    }
}

/// The members of a JSON object, in the order in which AWS writes them.
struct Members(String);

impl Members {
    fn new() -> Self {
        Members("{".to_owned())
    }
    fn raw(mut self, name: &str, json: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
        self.0.push_str(json);
        self
    }
    fn with(self, name: &str, value: impl Serialize) -> Self {
        let json = serde_json::to_string(&value).unwrap_or_else(|_| "null".to_owned());
        self.raw(name, &json)
    }
    fn maybe(self, name: &str, value: Option<impl Serialize>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
    fn traced(self, trace: Option<&str>) -> Self {
        let tracing = |trace| Members::new().with("type", "X-Amzn-Trace-Id").with("value", trace).text();
        match trace {
            Some(trace) => self.raw("tracing", &tracing(trace)),
            None => self,
        }
    }
    fn text(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A failure that the platform tells of.
fn fault(id: &RequestId, cause: FailureCause, body: &str) -> String {
    let told: Value = serde_json::from_str(body).unwrap_or_default();
    let kind = told["errorType"].as_str().unwrap_or(cause.error_type());
    let message = told["errorMessage"].as_str().unwrap_or(body);
    let record = Members::new().with("timestamp", timestamp(now_ms())).with("level", "ERROR").with("requestId", id);
    record.with("errorType", kind).with("message", message).text()
}

/// The events of a start: its beginning, the runtime's readiness, the account.
const INIT: [&str; 3] = ["platform.initStart", "platform.initRuntimeDone", "platform.initReport"];
const RESTORE: [&str; 3] = ["platform.restoreStart", "platform.restoreRuntimeDone", "platform.restoreReport"];

/// AWS's four outcomes, and the type of an error that is the platform's.
fn status_of(result: &Result<Answer<Bytes>, (FailureCause, String)>) -> (&'static str, Option<&'static str>) {
    match result {
        Ok(Answer::Reply { .. }) => ("success", None),
        Ok(Answer::Failed(_)) => ("error", None),
        Err((cause @ FailureCause::Timeout, _)) => ("timeout", Some(cause.error_type())),
        Err((cause @ (FailureCause::Init | FailureCause::ReplyTooLarge), _)) => ("error", Some(cause.error_type())),
        Err((cause, _)) => ("failure", Some(cause.error_type())),
    }
}

/// AWS's form, `python:3.11`; the builds that AWS numbers behind it have no counterpart here.
fn runtime_version(runtime: RuntimeName) -> String {
    let name = runtime.to_string();
    let (language, version) = name.split_at(name.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(name.len()));
    let version = version.trim_start_matches('.').trim_end_matches(".x");
    if version.is_empty() { language.to_owned() } else { format!("{language}:{version}") }
}

fn told_type(error: &FunctionError) -> String {
    let told: Value = serde_json::from_str(&error.body).unwrap_or_default();
    told["errorType"].as_str().unwrap_or(error.cause.error_type()).to_owned()
}

fn metrics(end: &CallEnd<'_>) -> Members {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let peak = Some(end.report.peak_memory).filter(|peak| *peak > 0).map(mib);
    let metrics = Members::new()
        .with("durationMs", milliseconds(end.phases.run))
        .with("billedDurationMs", whole_ms(end.phases.run))
        .with("memorySizeMB", mib(end.report.memory_limit))
        .maybe("maxMemoryUsedMB", peak);
    match end.kind {
        StartKind::Warm => metrics,
        StartKind::Clone | StartKind::Boot => metrics.with("initDurationMs", milliseconds(end.phases.init)),
        StartKind::Restore => {
            let made = end.phases.start + end.phases.init;
            metrics.with("restoreDurationMs", milliseconds(made)).with("billedRestoreDurationMs", whole_ms(made))
        }
    }
}

/// In milliseconds, to the microsecond.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// RFC 3339, in milliseconds and UTC.
pub(crate) fn timestamp(ms: u64) -> String {
    let (year, month, day) = crate::pool::civil(ms / 86_400_000);
    let (s, ms) = (ms / 1000 % 86_400, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log(application: &str, system: &str) -> SystemLog {
        SystemLog::of(&Logging {
            log_format: "JSON".into(),
            application_log_level: Some(application.into()),
            system_log_level: Some(system.into()),
            log_group: None,
        })
    }

    fn end(log: SystemLog, result: Result<Answer<Bytes>, (FailureCause, String)>) -> Vec<Value> {
        let phases = Phases { run: Duration::from_micros(1_920), init: Duration::from_millis(88), ..Phases::default() };
        let report = Report { peak_memory: 41 << 20, memory_limit: 128 << 20 };
        let id = RequestId::from_random([0x8f; 16]);
        let end = CallEnd {
            id: &id,
            kind: StartKind::Boot,
            phases: &phases,
            report: &report,
            trace: Some("Root=1"),
            result: &result,
        };
        log.end(&end).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn types(lines: &[Value]) -> Vec<&str> {
        lines.iter().map(|line| line["type"].as_str().unwrap_or("remark")).collect()
    }

    #[test]
    fn reports_have_the_members_of_aws() {
        let reply = || Ok(Answer::Reply { http: None, body: Bytes::from_static(b"null") });
        let lines = end(log("INFO", "INFO"), reply());
        assert_eq!(types(&lines), ["platform.report"]);
        let expected = json!({
            "requestId": "8f8f8f8f-8f8f-4f8f-8f8f-8f8f8f8f8f8f", "status": "success",
            "tracing": {"type": "X-Amzn-Trace-Id", "value": "Root=1"},
            "metrics": {"durationMs": 1.92, "billedDurationMs": 2, "memorySizeMB": 128, "maxMemoryUsedMB": 41, "initDurationMs": 88.0},
        });
        assert_eq!(lines[0]["record"], expected);
        let lines = end(log("INFO", "DEBUG"), reply());
        assert_eq!(types(&lines), ["platform.runtimeDone", "platform.report"]);
        assert_eq!(lines[0]["record"]["metrics"]["producedBytes"], 4);
        assert!(end(log("INFO", "WARN"), reply()).is_empty());
    }

    #[test]
    fn failures_are_written_at_every_level() {
        let timeout =
            (FailureCause::Timeout, json!({"errorType": "Sandbox.Timedout", "errorMessage": "late"}).to_string());
        let lines = end(log("FATAL", "WARN"), Err(timeout));
        assert_eq!(types(&lines), ["remark", "platform.runtimeDone", "platform.report"]);
        assert_eq!((&lines[0]["message"], &lines[0]["level"]), (&json!("late"), &json!("ERROR")));
        assert_eq!(
            (&lines[2]["record"]["status"], &lines[2]["record"]["errorType"]),
            (&json!("timeout"), &json!("Sandbox.Timedout"))
        );
        let thrown = Answer::Failed(FunctionError { cause: FailureCause::Handler, body: "{}".into() });
        let lines = end(log("FATAL", "WARN"), Ok(thrown));
        assert_eq!(types(&lines), ["platform.runtimeDone", "platform.report"]);
        assert_eq!(lines[1]["record"]["status"], "error");
    }

    #[test]
    fn starts_are_told_as_aws_maps_them_to_levels() {
        let about = |kind, initialization| InitAbout {
            kind,
            name: "f",
            version: "$LATEST",
            runtime: RuntimeName::parse("nodejs20.x").unwrap(),
            initialization,
        };
        let done = |log: SystemLog, about: &InitAbout<'_>, error: Option<&FunctionError>| {
            let lines = log.init_done(about, Duration::from_millis(5), error);
            lines
                .iter()
                .map(|l| serde_json::from_str::<Value>(l).unwrap()["type"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let (booted, kept) = (about(StartKind::Clone, "on-demand"), about(StartKind::Clone, "provisioned-concurrency"));
        let first: Value = serde_json::from_str(&log("INFO", "INFO").init_start(&booted).unwrap()).unwrap();
        assert_eq!(
            (&first["type"], &first["record"]["runtimeVersion"]),
            (&json!("platform.initStart"), &json!("nodejs:20"))
        );
        assert!(log("INFO", "WARN").init_start(&booted).is_none());
        assert!(done(log("INFO", "INFO"), &booted, None).is_empty());
        assert_eq!(done(log("INFO", "INFO"), &kept, None), ["platform.initReport"]);
        assert_eq!(done(log("INFO", "DEBUG"), &booted, None), ["platform.initRuntimeDone", "platform.initReport"]);
        let error = FunctionError { cause: FailureCause::Init, body: "{}".into() };
        assert_eq!(
            done(log("INFO", "WARN"), &booted, Some(&error)),
            ["platform.initRuntimeDone", "platform.initReport"]
        );
        assert_eq!(
            done(log("INFO", "INFO"), &about(StartKind::Restore, "snap-start"), None),
            ["platform.restoreReport"]
        );
        assert!(SystemLog::default().init_start(&booted).is_none(), "text has no such lines");
    }

    #[test]
    fn runtimes_have_versions() {
        for (name, version) in [
            ("nodejs24.x", "nodejs:24"),
            ("python3.11", "python:3.11"),
            ("provided.al2023", "provided:al2023"),
            ("provided", "provided"),
        ] {
            assert_eq!(runtime_version(RuntimeName::parse(name).unwrap()), version);
        }
    }

    #[test]
    fn lines_are_kept_by_their_level() {
        let keeps = |level: &str, line: &str| log(level, "INFO").keeps(line.as_bytes());
        assert!(keeps("INFO", "plain") && keeps("INFO", r#"{"a":1}"#) && !keeps("INFO", r#"{"level":"debug"}"#));
        assert!(
            !keeps("WARN", "plain") && !keeps("WARN", r#"{"level":"nonsense"}"#) && !keeps("WARN", r#"{"level":7}"#)
        );
        assert!(keeps("WARN", r#"{"level":"WARNING"}"#) && keeps("ERROR", r#"{"x":[1],"level":"CRITICAL"}"#));
        assert!(keeps("TRACE", r#"{"level":"TRACE"}"#) && keeps("DEBUG", "{broken"));
        assert!(SystemLog::default().keeps(br#"{"level":"debug"}"#), "text keeps everything");
    }
}
