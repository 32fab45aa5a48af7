//! `offshoot deploy PATH [NAME]`: packs, uploads, and waits until the function is loaded, or says why it cannot be.
//!
//! What a function is made of and which files are packed is decided in `manifest` and `pack`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, header};
use offshoot_model::FunctionName;
use serde_json::Value;

use super::Context;
use super::client::{Call, Client, Upload, block_on};
use super::error::{CliError, Exit};
use super::manifest::{FunctionFlags, Manifest};
use super::pack::{Package, name_of, pack};
use super::units::show_bytes;
use super::{multipart, term};
use crate::config::ClientFlags;

/// The longest wait for a deployment: a large archive, then the first start of a template.
const LONGEST: Duration = Duration::from_secs(600);

const LONG_HELP: &str = "\
What is packed:
  PATH is a directory, a .zip (sent as it is) or a single file (foo.py is called by foo.handler).
  Of a directory, these are never packed: version control, .offshoot, __pycache__, .venv, venv, .DS_Store,
  function.toml, ignore files, and .env files (give those with --env-file).
  If PATH holds .offshootignore, it alone decides about the rest (gitignore syntax; !PATTERN brings anything back).
  Otherwise .gitignore files inside PATH apply, but dependencies (node_modules, vendor, site-packages, python)
  and whatever the handler names are packed whole. -v lists what was left out.
  Links are followed. The same files give the same archive: names sorted, times fixed, modes 644 or 755.

function.toml:
  In PATH, at the top or under [function]: name, env_file, the settings listed under Function with _ for -,
  and a table [env]. Flags win.";

/// Deploys a function.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP)]
pub struct Args {
    /// A directory, a .zip or a single file
    path: PathBuf,
    /// The function's name [default: name in function.toml, else the name of PATH]
    name: Option<String>,
    /// Deploy only code that loads; otherwise what was in force stays so, and the exit code is 4 (for CI)
    #[arg(long)]
    strict: bool,
    /// A variable for the function; may be repeated
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Function")]
    env: Vec<String>,
    /// A file of NAME=VALUE lines; may be repeated
    #[arg(long, value_name = "FILE", help_heading = "Function")]
    env_file: Vec<PathBuf>,
    #[command(flatten)]
    function: FunctionFlags,
    #[command(flatten)]
    flags: ClientFlags,
}

/// Deploys, and prints what is running now.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let client_config = crate::config::load(&context.env, &args.flags.0)?.client;
    let mut manifest = if args.path.is_dir() { Manifest::read(&args.path)? } else { Manifest::default() };
    manifest.apply(&args.function);
    args.env_file.iter().try_for_each(|file| manifest.add_env_file(file))?;
    args.env.iter().try_for_each(|pair| manifest.add_env(pair))?;
    let name = choose_name(args.name.as_deref(), manifest.name.as_deref(), &args.path)?;
    let package = pack(&args.path, manifest.handler(), &client_config.limits)?;
    if let Some(handler) = package.handler.clone() {
        manifest.default_handler(handler);
    }
    say_what_was_packed(&package, &context.term);
    let client = Client::new(client_config);
    let started = Instant::now();
    let answer = block_on(upload(&client, &name, &manifest, package, args.strict, &context.term))?;
    report(&client, &name, answer, started.elapsed(), context)?;
    Ok(Exit::Ok)
}

fn choose_name(typed: Option<&str>, in_file: Option<&str>, path: &Path) -> Result<FunctionName, CliError> {
    if let Some(typed) = typed {
        return FunctionName::parse(typed).map_err(|e| CliError::usage(e.message));
    }
    if let Some(name) = in_file {
        return FunctionName::parse(name).map_err(|e| CliError::config(format!("function.toml: name: {}", e.message)));
    }
    let name = name_of(path).unwrap_or_default();
    FunctionName::parse(&name).map_err(|e| {
        let missing = !path.exists();
        let error = CliError::config(if missing {
            format!("cannot read {}: it does not exist", path.display())
        } else {
            e.message
        });
        if missing {
            error
        } else {
            error.hint(format!("give the function a name: offshoot deploy {} NAME", path.display()))
        }
    })
}

fn say_what_was_packed(package: &Package, term: &term::Term) {
    let size = show_bytes(package.bytes.len() as u64);
    let Some(files) = package.files else { return };
    let plural = if files == 1 { "" } else { "s" };
    let left_out = match package.left_out.len() {
        0 => String::new(),
        n if term.verbose => format!("; left out {n}:"),
        n => format!("; left out {n} (-v lists them)"),
    };
    term.note(&term.dim(&format!("packed {files} file{plural}, {size}{left_out}")));
    for (name, why) in package.left_out.iter().filter(|(_, why)| term.verbose || why.contains("secrets")) {
        term.note(&term.dim(&format!("  left out {}: {why}", term::printable(name, false))));
    }
}

async fn upload(
    client: &Client,
    name: &FunctionName,
    manifest: &Manifest,
    package: Package,
    strict: bool,
    term: &term::Term,
) -> Result<Value, CliError> {
    let total = package.bytes.len() as u64;
    let form = multipart::form(&manifest.form(name.as_str()), &format!("{name}.zip"), package.bytes);
    let whole: u64 = form.parts.iter().map(|part| part.len() as u64).sum();
    let bar = term.bar("uploading", whole.max(total));
    let (counted, spinning) = (bar.clone(), *term);
    let body = Upload::new(form.parts, move |sent| {
        counted.inc(sent);
        if counted.position() >= whole {
            spinning.spin(&counted, "deploying");
        }
    });
    let content_type =
        HeaderValue::from_str(&form.content_type).map_err(|_| CliError::usage("the form has no type"))?;
    let path = if strict { "/v1/functions?load=required" } else { "/v1/functions?load=1" };
    let call = Call::new(Method::POST, path).header(header::CONTENT_TYPE, content_type).body(body);
    let answer = tokio::time::timeout(LONGEST, client.send(call)).await;
    bar.finish_and_clear();
    let answer =
        answer.map_err(|_| CliError::unreachable(format!("{} did not answer within 10 min", client.server())))?;
    let answer = answer.map_err(|error| match error.kind.as_str() {
        "does-not-load" => error.hint("nothing was deployed: what was in force before still is"),
        _ => error,
    })?;
    serde_json::from_slice(&answer.body)
        .map_err(|_| CliError::unreachable(format!("{} answered, but not as an Offshoot server does", client.server())))
}

fn report(
    client: &Client,
    name: &FunctionName,
    answer: Value,
    took: Duration,
    context: &Context,
) -> Result<(), CliError> {
    let url = format!("{}/invoke/{name}", client.server());
    if context.term.json() {
        let mut document = answer;
        document["url"] = url.into();
        return context.term.document(&document);
    }
    let text =
        |key: &str| answer[key].as_str().map(|text| format!(" · {}", term::printable(text, false))).unwrap_or_default();
    let revision = answer["revision"].as_u64().map(|n| format!("revision {n}")).unwrap_or("deployed".to_owned());
    let size = answer["codeBytes"].as_u64().map(|n| format!(" · {}", show_bytes(n))).unwrap_or_default();
    let (runtime, handler) = (text("runtime"), text("handler"));
    let took =
        if took.as_secs() == 0 { format!("{} ms", took.as_millis()) } else { format!("{:.1} s", took.as_secs_f64()) };
    let head = context.term.bold_out(name.as_str());
    // A server that does not say has not loaded it.
    let state = if answer["loaded"] == true { "ready" } else { "deployed" };
    context.term.line(&format!("{head}  {revision}{runtime}{handler}{size} · {state} in {took}"))?;
    context.term.line(&format!("  url  {url}"))?;
    if let Some(warning) = answer["warning"].as_str() {
        let warning = term::printable(warning, false);
        context.term.complain(&format!("{} deployed, but {warning}", context.term.red("warning:")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answer, stub};
    use super::*;

    #[test]
    fn names_come_from_the_most_explicit_source() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.fn");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(choose_name(Some("a"), Some("b"), &path).unwrap().as_str(), "a");
        assert_eq!(choose_name(None, Some("b"), &path).unwrap().as_str(), "b");
        assert_eq!(choose_name(Some("a b"), None, &path).unwrap_err().exit, Exit::Usage);
        let error = choose_name(None, None, &path).unwrap_err();
        assert_eq!(error.exit, Exit::Config);
        assert!(error.hint.unwrap().ends_with("my.fn NAME"));
        assert!(choose_name(None, None, &dir.path().join("none")).unwrap_err().message.contains("does not exist"));
        let good = dir.path().join("hello.zip");
        std::fs::write(&good, "PK").unwrap();
        assert_eq!(choose_name(None, None, &good).unwrap().as_str(), "hello");
    }

    #[test]
    fn the_form_arrives_with_the_file_last() {
        let (client, server) =
            stub(vec![answer("201 Created", "", r#"{"function":"f","status":"deployed","revision":1}"#)]);
        let mut manifest = Manifest::default();
        manifest.default_handler("foo.handler".into());
        let package = Package { bytes: "PK-content".into(), files: Some(1), left_out: Vec::new(), handler: None };
        let name = FunctionName::parse("f").unwrap();
        let term = Context::for_tests().term;
        let reply = block_on(upload(&client, &name, &manifest, package, false, &term)).unwrap();
        assert_eq!(reply["revision"], 1);
        let request = server.join().unwrap().remove(0);
        let at = |text: &str| request.find(text).unwrap_or_else(|| panic!("{text} in {request}"));
        assert!(request.starts_with("POST /v1/functions?load=1 HTTP/1.1"));
        assert!(at("name=\"funcName\"\r\n\r\nf\r\n") < at("name=\"handler\"\r\n\r\nfoo.handler\r\n"));
        assert!(at("name=\"handler\"") < at("name=\"file\"; filename=\"f.zip\""));
    }
}
