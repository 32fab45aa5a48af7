//! The part of `offshoot doctor` that looks for languages and tries each one: a node of its own in a directory that goes
//! away again starts a box for every version found, from a template and with a function that answers.
//!
//! It never touches a running server or its data.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use offshoot_model::{Answer, Error, FunctionName, HttpPart, Invocation, Language, Outcome, RequestId, StartKind};
use offshoot_node::runtime::Installed;
use offshoot_node::{DeployRequest, Load, Node, Settings, Warm};

use super::client::block_on;
use super::doctor::Row;
use crate::config::Loaded;

/// A row for each language version, and one for how it starts.
pub fn rows(loaded: &Loaded) -> Vec<Row> {
    let dir = std::env::temp_dir().join(format!("offshoot-doctor-{}", std::process::id()));
    let rows = block_on(async { Ok(try_all(loaded, &dir).await) }).unwrap_or_default();
    std::fs::remove_dir_all(&dir).ok();
    rows
}

async fn try_all(loaded: &Loaded, dir: &Path) -> Vec<Row> {
    let mut serve = loaded.serve.clone();
    serve.data_dir = dir.to_owned();
    let cannot = |why: String| {
        vec![Row::new("clone methods", "a box", false, why).remedy("mend what is marked no above").required()]
    };
    let config = match crate::server::node_config(&serve) {
        Ok(config) => offshoot_node::NodeConfig { warm: Warm::None, ..config },
        Err(error) => return cannot(error.message),
    };
    let node = match Node::start(config) {
        Ok(node) => node,
        Err(error) => return cannot(error.message),
    };
    node.runtimes().ready().await;
    let mut rows = languages(&node);
    for installed in node.runtimes().installed() {
        rows.push(try_one(&node, &installed, dir).await);
    }
    tokio::task::spawn_blocking(move || node.shut_down()).await.ok();
    rows
}

fn languages(node: &Node) -> Vec<Row> {
    let mut rows = Vec::new();
    for language in Language::ALL {
        if node.runtimes().newest(*language).is_none() {
            let error = node.runtimes().none_of(*language);
            rows.push(
                Row::new("languages", language.title(), false, "no supported version was found").remedy(error.message),
            );
        }
    }
    let found = node.runtimes().installed();
    rows.extend(found.iter().map(|i| {
        Row::new("languages", &i.name.to_string(), true, format!("{} at {}", i.version, i.executable.display()))
    }));
    let rejected: BTreeMap<_, _> = node.runtimes().rejected().into_iter().collect();
    rows.extend(
        rejected
            .into_iter()
            .map(|(path, why)| Row::new("languages", &path.display().to_string(), false, why).harmless()),
    );
    rows
}

/// Starts the version for real and says from what the start came.
async fn try_one(node: &Node, installed: &Installed, dir: &Path) -> Row {
    let name = installed.name.to_string();
    let row = |ok, detail: String| Row::new("clone methods", &name, ok, detail);
    let remedy = "functions of this runtime still run, booted: see the reason";
    match call(node, installed, dir).await {
        Ok(outcome) => match (&outcome.result, outcome.start) {
            (Answer::Reply { .. }, StartKind::Clone) => {
                let made = outcome.phases.start + outcome.phases.init;
                row(true, format!("forks: a box with its function in {:.1} ms", made.as_secs_f64() * 1000.0))
            }
            (Answer::Reply { .. }, _) => {
                let why = node.shared().templates.known().into_iter().find(|(n, _)| *n == installed.name);
                let why = why.and_then(|(_, known)| known.err()).unwrap_or_else(|| "no reason is known".to_owned());
                row(false, format!("boots, cannot be cloned: {why}")).remedy(remedy)
            }
            (Answer::Failed(error), _) => {
                row(false, format!("a function fails: {}", error.body)).remedy("reinstall this runtime")
            }
        },
        Err(error) => row(false, error.message).remedy("mend what is marked no above, then see the server's log"),
    }
}

async fn call(node: &Node, installed: &Installed, dir: &Path) -> Result<Outcome<Bytes>, Error> {
    let (file, code) = match installed.name.language {
        Language::Node => ("index.js", "exports.handler = async () => ({ body: 'ok' });\n"),
        Language::Python => ("main.py", "def handler(req):\n    return {'body': 'ok'}\n"),
        Language::Ruby => ("main.rb", "def handler(req)\n  { body: 'ok' }\nend\n"),
        // Not on the list of what was found on the machine.
        Language::Provided | Language::Java | Language::Dotnet => ("bootstrap", "#!/bin/sh\n"),
    };
    let archive = dir.join("trial.zip");
    write_zip(&archive, file, code)
        .map_err(|e| Error::new(offshoot_model::ErrorKind::Store, "a trial function cannot be written").caused_by(e))?;
    let function = FunctionName::parse("trial")?;
    let settings = Settings { runtime: Some(installed.name), ..Settings::default() };
    node.deploy(DeployRequest { archive, name: function.clone(), settings }, Load::No).await?;
    // The first start also boots the template; the second shows what a start costs from then on.
    node.shared().templates.get(installed).await.ok();
    let http = HttpPart { method: "GET".into(), path: "/".into(), ..HttpPart::default() };
    let id = RequestId::from_random(u128::from(std::process::id()).to_le_bytes());
    let outcome = node
        .invoke(Invocation { id, function: function.clone(), http: Some(http), payload: Bytes::new(), context: None })
        .await;
    node.delete(&function).await?;
    outcome
}

fn write_zip(path: &Path, name: &str, code: &str) -> std::io::Result<()> {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path)?);
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file(name, options)?;
    zip.write_all(code.as_bytes())?;
    zip.finish()?;
    Ok(())
}
