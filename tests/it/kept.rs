//! Functions that this machine cannot run: refused unless the operator lets them in, and then kept, shown, changed and
//! published like any other, while a call says what is missing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Answer, Server, base64, eventually, zip_of};

const FUNCTIONS: &str = "/2015-03-31/functions";
const ROLE: &str = "arn:aws:iam::000000000000:role/r";

fn java(name: &str, runtime: &str) -> Value {
    json!({
        "FunctionName": name, "Runtime": runtime, "Role": ROLE, "Handler": "example.Handler::handleRequest",
        "Code": {"ZipFile": base64(&zip_of(&[("example/Handler.class", b"not looked at")]))},
    })
}

fn put(server: &Server, path: &str, body: &Value) -> Answer {
    server.request("PUT", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

fn settled(server: &Server, name: &str) -> Value {
    let path = format!("{FUNCTIONS}/{name}/configuration");
    eventually("the function is active", Duration::from_secs(20), || {
        let now = server.get(&path).expect(200).json();
        now["State"] == "Active" && now["LastUpdateStatus"] == "Successful"
    });
    server.get(&path).expect(200).json()
}

#[test]
fn what_cannot_run_here_is_refused_unless_the_operator_lets_it_in() {
    let server = Server::start(&[]);
    let said = server.post(FUNCTIONS, java("far", "java21").to_string()).expect(400).text();
    assert!(said.contains("java21") && said.contains("runs as a custom runtime"), "{said}");
    assert!(server.get(&format!("{FUNCTIONS}/far")).expect(404).text().contains("Function not found"));
}

#[test]
fn what_cannot_run_here_is_kept_shown_and_changed() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_on(data.path(), &["--accept-unrunnable"]);
    for (number, runtime) in ["java8.al2", "java25", "dotnet8"].into_iter().enumerate() {
        let name = format!("far{number}");
        let made = server.post(FUNCTIONS, java(&name, runtime).to_string()).expect(201).json();
        assert_eq!((&made["Runtime"], &made["State"]), (&json!(runtime), &json!("Pending")));
        let now = settled(&server, &name);
        assert_eq!(now["Handler"], "example.Handler::handleRequest");
    }
    let path = format!("{FUNCTIONS}/far1/configuration");
    put(&server, &path, &json!({"MemorySize": 512, "SnapStart": {"ApplyOn": "PublishedVersions"}})).expect(200);
    assert_eq!(settled(&server, "far1")["MemorySize"], 512);
    let version = server.post(&format!("{FUNCTIONS}/far1/versions"), "{}").expect(201).json();
    assert_eq!((&version["Version"], &version["SnapStart"]["OptimizationStatus"]), (&json!("1"), &json!("On")));

    // A call says what is missing, whichever way it comes; so does a deployment in a dialect of ours.
    for qualifier in ["", "?Qualifier=1"] {
        let failed = server.post(&format!("{FUNCTIONS}/far1/invocations{qualifier}"), "{}").expect(502);
        assert_eq!(failed.header("x-amzn-errortype"), Some("InvalidRuntimeException"));
        assert!(failed.text().contains("this server has no runtime java25: Java runs as a custom runtime"));
    }
    let told = server.native("far1", "{}").expect(400).text();
    assert!(told.contains("runtime-missing"), "{told}");
    let ours = server.request(
        "PATCH",
        "/v1/functions/far1",
        &[("Content-Type", "application/json")],
        br#"{"runtime":"java21"}"#,
    );
    assert!(ours.expect(400).text().contains("runs as a custom runtime"));

    // What is kept is there after a crash, also for a server that would not take it today, and can become what runs.
    server.kill();
    let server = Server::start_on(data.path(), &[]);
    assert_eq!(server.get(&format!("{FUNCTIONS}/far0")).expect(200).json()["Configuration"]["Runtime"], "java8.al2");
    let bootstrap = zip_of(&[("bootstrap", b"#!/bin/sh\n")]);
    put(&server, &format!("{FUNCTIONS}/far0/code"), &json!({"ZipFile": base64(&bootstrap)})).expect(200);
    settled(&server, "far0");
    put(&server, &format!("{FUNCTIONS}/far0/configuration"), &json!({"Runtime": "provided.al2023"})).expect(200);
    assert_eq!(settled(&server, "far0")["Runtime"], "provided.al2023");
    server.request("DELETE", &format!("{FUNCTIONS}/far2"), &[], b"").expect(204);
}
