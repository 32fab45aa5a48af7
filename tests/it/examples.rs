//! The examples do what their README says.

use serde_json::json;

use crate::harness::{Lang, Server, root, zip_of_dir};

#[test]
fn examples_run() {
    let server = Server::start(&[]);
    let deploy = |name: &str| {
        let done = std::process::Command::new(crate::harness::binary())
            .args([
                "deploy",
                root().join("examples").join(name).to_str().unwrap(),
                "--server",
                &format!("http://127.0.0.1:{}", server.port),
            ])
            .env("XDG_CONFIG_HOME", "/nonexistent")
            .current_dir("/")
            .output()
            .unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let ruby = Lang::Ruby.is_here("examples/hello-ruby").then_some("hello-ruby");
    for name in ["hello-js", "hello-python"].into_iter().chain(ruby) {
        deploy(name);
        assert_eq!(
            server.post(&format!("/invoke/{name}"), r#"{"name":"Ana"}"#).expect(200).json(),
            json!({"message": "Hello, Ana!"})
        );
        assert_eq!(
            server.get(&format!("/invoke/{name}?name=Bo%20Li")).expect(200).json(),
            json!({"message": "Hello, Bo Li!"})
        );
        assert_eq!(server.get(&format!("/invoke/{name}")).expect(200).json(), json!({"message": "Hello, world!"}));
        let bad = server.post(&format!("/invoke/{name}"), "{name").expect(400);
        assert_eq!(bad.json(), json!({"message": "send JSON such as {\"name\": \"Ana\"}"}));
    }

    deploy("event-js");
    assert_eq!(server.get("/info/event-js").json()["convention"], "event");
    let event = std::fs::read(root().join("examples/event-js/event.json")).unwrap();
    let answer = server.native("event-js", event).expect(200);
    assert_eq!(answer.header("offshoot-function-error"), None, "{}", answer.text());
    assert_eq!(answer.json(), json!({"batchItemFailures": [{"itemIdentifier": "msg-2"}]}));

    deploy("webhook-python");
    let body = br#"{"action":"opened"}"#;
    let signed = |key: &str| {
        let mut child = std::process::Command::new("openssl")
            .args(["dgst", "-sha256", "-hmac", key, "-hex"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), body).unwrap();
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        format!("sha256={}", text.trim().rsplit(' ').next().unwrap())
    };
    let call = |signature: &str| {
        server.request(
            "POST",
            "/invoke/webhook-python",
            &[("X-Hub-Signature-256", signature), ("Content-Type", "application/json")],
            body,
        )
    };
    assert_eq!(call(&signed("change-me")).expect(202).json(), json!({"accepted": "opened"}));
    assert_eq!(call(&signed("another key")).expect(401).json(), json!({"error": "the signature does not fit"}));
    assert_eq!(call("").expect(401).json(), json!({"error": "the signature does not fit"}));
}

/// What a person zips by hand works as well as what the command line packs.
#[test]
fn examples_can_be_zipped_by_hand() {
    let server = Server::start(&[]);
    server.deploy("by-hand", &zip_of_dir(&root().join("examples/hello-js")), &[]);
    assert_eq!(
        server.post("/invoke/by-hand", r#"{"name":"Ana"}"#).expect(200).json(),
        json!({"message": "Hello, Ana!"})
    );
}
