//! The box: nothing that a function tries gets out of it, and nothing that it eats is anybody else's.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{HOST_SECRET, Lang, PATIENCE, Server, Shared, eventually, per_language, skip, zip_of};

static SERVER: Shared = Shared::new(&[]);

/// What every way of asking for one's own name answers, and who else there is.
fn a_box_knows_its_user_and_no_other(lang: Lang) {
    let server = SERVER.get();
    let (file, code) = match lang {
        Lang::Node => (
            "index.js",
            r#"const os = require('os'), fs = require('fs'), { execFileSync } = require('child_process');
exports.handler = async () => {
  const user = os.userInfo();
  return {
    name: user.username, home: user.homedir, shell: user.shell, ids: [process.getuid(), process.getgid()],
    whoami: execFileSync('whoami').toString().trim(), passwd: fs.readFileSync('/etc/passwd', 'utf8'), group: fs.readFileSync('/etc/group', 'utf8'),
  };
};
"#,
        ),
        Lang::Python => (
            "index.py",
            r#"import getpass, os, pwd, subprocess
def handler(event, context):
    user = pwd.getpwuid(os.getuid())
    assert getpass.getuser() == user.pw_name and os.path.expanduser("~") == user.pw_dir
    return {
        "name": user.pw_name, "home": user.pw_dir, "shell": user.pw_shell, "ids": [os.getuid(), os.getgid()],
        "whoami": subprocess.check_output(["whoami"], text=True).strip(), "passwd": open("/etc/passwd").read(), "group": open("/etc/group").read(),
    }
"#,
        ),
        Lang::Ruby => (
            "index.rb",
            r#"require "etc"
def handler(event:, context:)
  user = Etc.getpwuid
  { name: user.name, home: user.dir, shell: user.shell, ids: [Process.uid, Process.gid],
    whoami: `whoami`.strip, passwd: File.read("/etc/passwd"), group: File.read("/etc/group") }
end
"#,
        ),
    };
    for snapshot in ["off", "on"] {
        let name = format!("user-{}-{snapshot}", lang.dir());
        let fields = [("handler", "index.handler"), ("convention", "event"), ("snapshot", snapshot)];
        server.deploy(&name, &zip_of(&[(file, code.as_bytes())]), &fields);
        let answer = server.native(&name, "{}").expect(200);
        assert_eq!(answer.header("offshoot-function-error"), None, "{}", answer.text());
        let seen = answer.json();
        let user = (&seen["name"], &seen["home"], &seen["shell"], &seen["whoami"], &seen["ids"]);
        let wanted = (
            &json!("sbx_user1051"),
            &json!("/tmp"),
            &json!("/sbin/nologin"),
            &json!("sbx_user1051"),
            &json!([993, 990]),
        );
        assert_eq!(user, wanted, "{name}");
        for file in ["passwd", "group"] {
            let names: Vec<_> = seen[file].as_str().unwrap().lines().map(|l| l.split(':').next().unwrap()).collect();
            assert_eq!(names, ["root", "sbx_user1051", "nobody"], "{name}: /etc/{file}");
        }
    }
}

fn nothing_gets_out(lang: Lang) {
    let server = SERVER.get();
    let dir = tempfile::Builder::new().prefix("offshoot-host-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let host_file = dir.path().join("readable-by-all");
    std::fs::write(&host_file, "canary").unwrap();
    std::fs::set_permissions(&host_file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let _socket = UnixListener::bind(dir.path().join("readable-by-all.sock")).unwrap();
    std::fs::set_permissions(dir.path().join("readable-by-all.sock"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let abstract_name = format!("offshoot-it-{}-{}", std::process::id(), lang.dir());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
    let shared_memory = Segment::new();

    let neighbour = format!("victim-{}", lang.dir());
    server.deploy(&neighbour, &lang.zip("counter"), &[]);
    let born = server.invoke(&neighbour, "").expect(200).json()["born"].clone();
    let other = server.boxed().iter().map(|p| p.pid).max().expect("an instance runs");

    let name = server.deploy_case(lang, "probe", &[("timeout", "60s"), ("memory", "512")]);
    let ask = json!({
        "hostFile": host_file, "dataDir": server.data, "port": server.port, "serverPid": server.pid, "otherPid": other,
        "abstract": abstract_name, "shmKey": shared_memory.key,
    });
    let answer = server.native(&name, ask.to_string()).expect(200);
    assert_eq!(answer.header("offshoot-function-error"), None, "{}", answer.text());
    let found = answer.json();
    let attempts = found["attempts"].as_object().unwrap();
    assert!(attempts.len() > 80, "only {} attempts", attempts.len());
    let through: Vec<_> = attempts.iter().filter(|(_, how)| how.as_str().unwrap().starts_with("got")).collect();
    assert!(through.is_empty(), "{} of {} attempts got through: {through:#?}", through.len(), attempts.len());

    let facts = &found["facts"];
    let status = |key: &str| {
        facts["status"][key].as_str().unwrap_or_else(|| panic!("no {key} in {}", facts["status"])).trim().to_owned()
    };
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(capabilities), "0000000000000000", "{capabilities}");
    }
    assert_eq!((status("NoNewPrivs").as_str(), status("Seccomp").as_str()), ("1", "2"));
    assert_eq!(status("Groups"), "");
    assert!(!status("Uid").split_whitespace().any(|u| u == "0"), "{}", status("Uid"));
    for (kind, inside) in facts["spaces"].as_object().unwrap() {
        let outside = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(inside.as_str(), outside.to_str(), "the host's own namespace: {kind}");
    }
    let links: Vec<&str> = facts["links"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    let foreign: Vec<_> = links
        .iter()
        .filter(|l| l.starts_with('/') && !l.starts_with("/dev/null") && !l.starts_with("/proc/"))
        .collect();
    assert!(foreign.is_empty(), "descriptors of the host: {foreign:?}");
    if lang == Lang::Python {
        assert!(links.len() <= 5, "more descriptors than 0, 1, 2, 3 and the listing itself: {links:?}");
    }
    // Privilege and filters belong to a thread: those that an engine keeps for itself have to be without them too.
    if let Some(threads) = facts["threads"].as_array() {
        let none = json!(["0000000000000000", "0000000000000000", "2"]);
        assert!(!threads.is_empty() && threads.iter().all(|t| *t == none), "{threads:?}");
    }
    assert!(facts["pids"].as_u64().unwrap() <= 2, "it sees {} processes", facts["pids"]);
    assert_ne!(facts["uid"], 0);
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(facts["hostname"].as_str().unwrap(), host_name.trim());
    for key in ["env", "environ", "mounts", "cmdline", "argv", "cgroup", "cwd"] {
        let text = facts[key].to_string();
        for secret in [
            HOST_SECRET,
            server.data.to_str().unwrap(),
            dir.path().to_str().unwrap(),
            "HOST_SECRET",
            "/root",
            "OFFSHOOT_",
        ] {
            // The kernel names the source of a bind mount (the function's code, the language) in `mountinfo`; what else
            // lies there is out of reach all the same.
            let shown_by_kernel = key == "mounts" && (secret == server.data.to_str().unwrap() || secret == "/root");
            assert!(shown_by_kernel || !text.contains(secret), "{secret} of the host is in {key}: {text}");
        }
    }

    assert_eq!(
        server.invoke(&neighbour, "").expect(200).json(),
        json!({"count": 2, "born": born}),
        "the neighbour was hurt"
    );
    assert_eq!(std::fs::read_to_string(&host_file).unwrap(), "canary");
    server.is_well();
    server.delete(&name);
    server.delete(&neighbour);
}

/// A System V shared-memory segment of the host that everybody may use.
struct Segment {
    key: i64,
    id: String,
}

impl Segment {
    fn new() -> Self {
        let made = Command::new("ipcmk").args(["-M", "4096", "-p", "0666"]).output();
        let text = made.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        let id: String = text.chars().filter(char::is_ascii_digit).collect();
        let list = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        let key = list.lines().find_map(|l| {
            let words: Vec<&str> = l.split_whitespace().collect();
            (words.get(1) == Some(&id.as_str())).then(|| words[0].parse().ok()).flatten()
        });
        if key.is_none() {
            skip("boxes: shared memory of the host", "ipcmk made no segment");
        }
        Segment { key: key.unwrap_or(0x0ff5_7007), id }
    }
}
impl Drop for Segment {
    fn drop(&mut self) {
        let _ = Command::new("ipcrm").args(["-m", &self.id]).output();
    }
}

/// What a function may do all the same.
fn ordinary_things_work(lang: Lang) {
    let server = SERVER.get();
    let (code, wanted) = match lang {
        Lang::Node => (
            r#"(() => { const fs = require('fs'); const { execFileSync } = require('child_process');
                fs.mkdirSync('/tmp/d'); fs.writeFileSync('/tmp/d/f', 'x'); fs.symlinkSync('f', '/tmp/d/l'); fs.chmodSync('/tmp/d/f', 0o600);
                return [1, fs.readFileSync('/tmp/d/l', 'utf8'), execFileSync('/bin/echo', ['hi'], { encoding: 'utf8' }), fs.existsSync('/var/task/index.js')]; })()"#,
            json!([1, "x", "hi\n", true]),
        ),
        Lang::Python => (
            r#"[open("/tmp/f", "w").write("x"), open("/tmp/f").read(), __import__("subprocess").check_output(["/bin/echo", "hi"]).decode(), __import__("os").path.exists("/var/task/index.py")]"#,
            json!([1, "x", "hi\n", true]),
        ),
        Lang::Ruby => (
            r#"[File.write("/tmp/f", "x"), File.read("/tmp/f"), `/bin/echo hi`, File.exist?("/var/task/index.rb")]"#,
            json!([1, "x", "hi\n", true]),
        ),
    };
    let name = format!("ordinary-{}", lang.dir());
    server.deploy(&name, &lang.inline(code), &[]);
    assert_eq!(server.invoke(&name, "").expect(200).json(), wanted);
    server.delete(&name);
}

fn a_fork_bomb_stays_inside(lang: Lang) {
    let server = Server::start(&[]);
    for (name, of) in [("bystander", Lang::Node), ("warm-up", lang)] {
        server.deploy(name, &of.zip("counter"), &[]);
        server.invoke(name, "").expect(200);
    }
    server.delete("warm-up");
    eventually("only the bystander is left", PATIENCE, || server.boxed().len() == 1);
    let before = server.usage();
    // Room enough for the processes themselves: the limit on their number is what is to be met.
    let name = server.deploy_case(lang, "forks", &[("timeout", "60s"), ("memory", "2048")]);
    let answer = server.native(&name, "").expect(200);
    assert_eq!(answer.header("offshoot-function-error"), None, "{}", answer.text());
    assert_eq!(answer.json()["error"], "EAGAIN", "{}", answer.text());
    assert!(answer.json()["made"].as_u64().unwrap() < 600, "{}", answer.text());
    assert!(server.boxed().len() > 100, "the bomb is still there");
    server.invoke("bystander", "").expect(200);
    server.delete(&name);
    server.settles_to(&before);
}

fn descriptors_run_out_inside_only(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "fds", &[]);
    let found = server.invoke(&name, "").expect(200).json();
    assert_eq!(found["error"], "EMFILE");
    assert!((900..=1024).contains(&found["opened"].as_u64().unwrap()), "{found}");
    assert_eq!(server.native(&name, "").expect(200).header("offshoot-start"), Some("warm"), "the instance lives on");
    server.delete(&name);
}

fn tmp_has_a_size_and_a_number_of_files(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "fills_tmp", &[("tmp", "16"), ("memory", "512"), ("timeout", "120s")]);
    let free =
        || String::from_utf8(Command::new("df").args(["--output=avail", "/tmp"]).output().unwrap().stdout).unwrap();
    let before = free();
    let found = server.invoke(&name, "").expect(200).json();
    assert_eq!((&found["why"], &found["filesWhy"]), (&json!("ENOSPC"), &json!("ENOSPC")), "{found}");
    let bytes = found["bytes"].as_u64().unwrap();
    assert!((15 << 20..=16 << 20).contains(&bytes), "{bytes} bytes fit in 16 MiB");
    assert!(found["files"].as_u64().unwrap() < 200_000, "{found}");
    let kib = |text: &str| text.lines().last().unwrap().trim().parse::<i64>().unwrap();
    assert!((kib(&before) - kib(&free())).abs() < 8 << 10, "the host's disk has changed");
    server.delete(&name);
}

fn a_flood_of_output_is_cut(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "floods", &[("timeout", "60s"), ("memory", "256")]);
    assert_eq!(server.invoke(&name, "64").expect(200).json(), "survived");
    assert_eq!(server.invoke(&name, "1").expect(200).json(), "survived");
    let size = || -> u64 {
        let logs = std::fs::read_dir(server.data.join("logs")).unwrap().flatten();
        logs.filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&name)))
            .map(|e| e.metadata().map_or(0, |m| m.len()))
            .sum()
    };
    eventually("the marker of the cut is in the log", PATIENCE, || {
        server.logs(&name).iter().any(|l| l.contains("[cut") || l.contains("cut:"))
    });
    assert!(size() < 9 << 20, "64 MiB of output made a log of {} bytes", size());
    server.delete(&name);
}

fn hostile_output_is_made_harmless(lang: Lang) {
    let server = SERVER.get();
    let name = server.deploy_case(lang, "logs", &[]);
    let raw = crate::harness::base64(
        b"\x1b[2J\x1b]0;owned\x07\r\nfake\rREPORT RequestId: x\n\xff\xfe\x00bytes\n\xe2\x80\xae reversed\n",
    );
    server.invoke(&name, json!({"raw": raw}).to_string()).expect(200);
    eventually("the log is there", PATIENCE, || server.logs(&name).iter().any(|l| l.contains("reversed")));
    let whole = server.request("GET", &format!("/logs/{name}"), &[], b"").body;
    assert!(
        !whole.iter().any(|b| *b == 0x1b || *b == 7 || *b == 0 || *b == 0x7f),
        "a control character reaches the reader"
    );
    let lines = server.logs(&name);
    assert!(lines.iter().any(|l| l.contains("\\x1b[2J")), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("\\xff\\xfe\\x00bytes")), "{lines:?}");
    assert!(!lines.iter().any(|l| l.contains('\u{202e}')));
    // A carriage return does not start a line of its own that could be taken for the platform's.
    assert_eq!(lines.iter().filter(|l| l.starts_with("REPORT RequestId: x")).count(), 0, "{lines:?}");
    server.delete(&name);
}

/// Nothing of one function is seen by another, nor by the next version of the same one.
fn neighbours_see_no_traces(lang: Lang) {
    let server = SERVER.get();
    let zip = lang.zip("neighbour");
    let (a, b) = (format!("leaver-{}", lang.dir()), format!("finder-{}", lang.dir()));
    server.deploy(&a, &zip, &[]);
    server.deploy(&b, &zip, &[]);
    let left = server.invoke(&a, "leave").expect(200).json();
    assert!(left.as_array().unwrap().contains(&json!("/tmp/canary")), "{left}");
    assert!(!left.as_array().unwrap().contains(&json!("/var/task/canary")), "code is writable");
    let own = server.invoke(&a, "").expect(200).json();
    for mark in ["/tmp/canary", "global", "env"] {
        assert!(own.as_array().unwrap().contains(&json!(mark)), "the same instance keeps {mark}, as on AWS: {own}");
    }
    assert_eq!(server.invoke(&b, "").expect(200).json(), json!([]), "another function finds traces");
    server.post(&format!("/config/{a}"), r#"{"env":{"NEW":"1"}}"#).expect(200);
    assert_eq!(server.invoke(&a, "").expect(200).json(), json!([]), "another version finds traces");
    server.delete(&a);
    server.delete(&b);
}

/// A process that a function leaves behind ends with its instance, whatever it ignores.
fn background_processes_end_with_the_instance(lang: Lang) {
    let server = Server::start(&[]);
    let name = server.deploy_case(lang, "background", &[]);
    let before = server.boxed().len();
    assert_eq!(server.invoke(&name, "").expect(200).json(), "left behind");
    assert!(server.boxed().len() >= before + 2, "the worker and the process that it left: {:?}", server.boxed());
    server.delete(&name);
    eventually("all of it is gone", PATIENCE, || server.boxed().len() <= before);
}

fn the_host_network_is_reached_only_when_asked_for(lang: Lang) {
    let server = SERVER.get();
    let code = match lang {
        Lang::Node => {
            "await new Promise((done) => { const s = require('net').connect(Number(req.body), '127.0.0.1'); s.on('connect', () => { s.destroy(); done('connected'); }); s.on('error', (e) => done(e.code)); })"
        }
        Lang::Python => {
            "(lambda s: s.connect_ex((\"127.0.0.1\", int(req.body))))(__import__(\"socket\").socket()) == 0 and \"connected\" or \"refused\""
        }
        Lang::Ruby => {
            "begin; require 'socket'; TCPSocket.new('127.0.0.1', req.body.to_i).close; 'connected'; rescue SystemCallError; 'refused'; end"
        }
    };
    for (network, reached) in [("none", false), ("host", true)] {
        let name = format!("net-{network}-{}", lang.dir());
        server.deploy(&name, &lang.inline(code), &[("network", network)]);
        let answer = server.invoke(&name, server.port.to_string()).expect(200).json();
        assert_eq!(answer == "connected", reached, "network {network}: {answer}");
        server.delete(&name);
    }
}

per_language! {
    a_box_knows_its_user_and_no_other
    nothing_gets_out
    ordinary_things_work
    a_fork_bomb_stays_inside
    descriptors_run_out_inside_only
    tmp_has_a_size_and_a_number_of_files
    a_flood_of_output_is_cut
    hostile_output_is_made_harmless
    neighbours_see_no_traces
    background_processes_end_with_the_instance
    the_host_network_is_reached_only_when_asked_for
}

/// Code that was changed on disk behind the server's back is never run.
#[test]
fn poisoned_code_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start_on(&data, &[]);
    server.deploy("poisoned", &Lang::Node.inline("'good'"), &[]);
    let digest = server.get("/info/poisoned").json()["codeSha256"].as_str().unwrap().to_owned();
    server.stop();
    let file = data.join("code").join(digest).join("index.js");
    std::fs::write(&file, "exports.handler = async () => ({ body: 'evil' });").unwrap();
    let server = Server::start_on(&data, &[]);
    let answer = server.invoke("poisoned", "").expect(500);
    assert!(!answer.text().contains("evil") && !answer.error().is_empty(), "{}", answer.text());
    assert_eq!(server.native("poisoned", "").expect(500).json()["kind"], "code-corrupt");
    // Deploying it again mends it.
    server.deploy("poisoned", &Lang::Node.inline("'good'"), &[]);
    assert_eq!(server.invoke("poisoned", "").expect(200).json(), Value::from("good"));
}
