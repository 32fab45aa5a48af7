//! AWS's SDKs that talk to the server from outside, unmodified: JavaScript (`tests/clients/node/sdk.mjs`) and Rust
//! (`tests/clients/rust/sdk`). boto3, the AWS CLI and Terraform are in `lambda.rs`.

use std::process::Command;

use crate::harness::{Lang, Server, installed, root, zip_of};

/// What functions of the SDKs' stories do.
const ECHO: &[u8] = br#"
exports.handler = async (event, context) => {
  if (event.fail) throw new RangeError('as asked');
  process.stdout.write(`got ${JSON.stringify(event)}\n`);
  return {
    event, version: context.functionVersion, arn: context.invokedFunctionArn, custom: context.clientContext?.custom,
    A: process.env.A, big: 'y'.repeat(event.bytes ?? 0),
  };
};
"#;

const WEB: &[u8] = br#"
exports.handler = async (event) => ({
  statusCode: 418, headers: { 'X-From': 'web', 'Content-Type': 'application/json' },
  body: JSON.stringify({
    path: event.rawPath, query: event.queryStringParameters, method: event.requestContext.http.method,
    body: event.isBase64Encoded ? Buffer.from(event.body, 'base64').toString() : event.body,
  }),
});
"#;

/// The AWS name of the Node.js that is on this machine.
fn runtime(server: &Server) -> String {
    let name = server.deploy_case(Lang::Node, "echo", &[]);
    let found = server.get(&format!("/info/{name}")).expect(200).json()["runtime"].as_str().unwrap().to_owned();
    server.delete(&name);
    found
}

/// Runs a program of stories; each has to say that it came out well.
#[track_caller]
fn told(server: &Server, mut command: Command, stories: usize) {
    let done = command.env("AWS_CONFIG_FILE", "/nonexistent").current_dir("/").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}\n{}", server.said());
    assert_eq!(said.lines().filter(|l| l.starts_with("ok ")).count(), stories, "{said}");
}

#[test]
fn the_sdk_for_javascript_works_unmodified() {
    let Some(modules) = installed("AWS's SDK for JavaScript", "node", "node_modules/@aws-sdk/client-lambda") else {
        return;
    };
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let layer: &[u8] = b"exports.text = 'from the layer';";
    for (name, files) in [
        ("echo", &[("index.js", ECHO)][..]),
        ("other", &[("index.js", b"exports.handler = async () => 'other';")]),
        ("web", &[("index.js", WEB)]),
        ("layered", &[("index.js", b"exports.handler = async () => require('said').text;")]),
        ("layer", &[("nodejs/node_modules/said/index.js", layer)]),
    ] {
        std::fs::write(dir.path().join(format!("{name}.zip")), zip_of(files)).unwrap();
    }
    // A module is looked for beside the file that wants it: the program goes to where the modules are.
    let program = modules.join("sdk.mjs");
    std::fs::copy(root().join("tests/clients/node/sdk.mjs"), &program).unwrap();
    let mut command = Command::new("node");
    command.arg(program).args([&format!("http://127.0.0.1:{}", server.port), &runtime(&server)]).arg(dir.path());
    told(&server, command, 8);
}

#[test]
fn the_sdk_for_rust_works_unmodified() {
    let Some(home) = installed("AWS's SDK for Rust", "rust", "debug/sdk") else { return };
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("echo.zip");
    std::fs::write(&archive, zip_of(&[("index.js", ECHO)])).unwrap();
    let mut command = Command::new(home.join("debug/sdk"));
    command.args([&format!("http://127.0.0.1:{}", server.port), &runtime(&server)]).arg(archive);
    told(&server, command, 5);
}
