//! Hostile archives: every one is refused with a sentence, nothing is written outside of the store, nothing stays behind.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::harness::{Lang, Server, Shared, eventually, parallel, zip_of};

const LIMITS: &[&str] = &["--limits-unzipped-bytes", "67108864", "--limits-archive-entries", "2000"];
static SERVER: Shared = Shared::new(LIMITS);

/// An entry, written byte by byte so that it can lie.
#[derive(Clone)]
struct Entry {
    name: Vec<u8>,
    data: Vec<u8>,
    /// The name in the entry's own header, when it differs.
    local_name: Option<Vec<u8>>,
    mode: u32,
    made_by: u16,
    method: u16,
    flags: u16,
    /// The size that is claimed, when it differs.
    size: Option<u32>,
    /// Where the directory says the entry lies, when it differs.
    offset: Option<u32>,
    crc: Option<u32>,
    extra: Vec<u8>,
}

fn entry(name: &str, data: &str) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        data: data.as_bytes().to_vec(),
        local_name: None,
        mode: 0o100_644,
        made_by: 3 << 8 | 20,
        method: 0,
        flags: 0,
        size: None,
        offset: None,
        crc: None,
        extra: Vec::new(),
    }
}

fn index() -> Entry {
    entry("index.js", "exports.handler = async () => 'hi';")
}

/// Checksum of zip entries (IEEE 802.3, reflected).
fn crc32(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

fn zip(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    for e in entries {
        let offset = e.offset.unwrap_or(out.len() as u32);
        let local = e.local_name.as_ref().unwrap_or(&e.name);
        let size = e.size.unwrap_or(e.data.len() as u32);
        let common = |out: &mut Vec<u8>, name: &[u8]| {
            for half in [20u16, e.flags, e.method, 0, 0x21] {
                out.extend_from_slice(&half.to_le_bytes());
            }
            for word in [e.crc.unwrap_or_else(|| crc32(&e.data)), e.data.len() as u32, size] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(&(e.extra.len() as u16).to_le_bytes());
        };
        out.extend_from_slice(b"PK\x03\x04");
        common(&mut out, local);
        out.extend_from_slice(local);
        out.extend_from_slice(&e.extra);
        out.extend_from_slice(&e.data);
        directory.extend_from_slice(b"PK\x01\x02");
        directory.extend_from_slice(&e.made_by.to_le_bytes());
        common(&mut directory, &e.name);
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(e.mode << 16).to_le_bytes());
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(&e.name);
        directory.extend_from_slice(&e.extra);
    }
    let start = out.len() as u32;
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    out.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    out.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out
}

/// Each archive is refused with 400, in words that a person understands, and leaves the machine as it was.
#[track_caller]
fn refused(cases: &[(&str, Vec<u8>, &str)]) {
    let server = Server::start(LIMITS);
    server.deploy("settled", &Lang::Node.inline("1"), &[]);
    let outside = |dir: &Path| -> Vec<_> {
        fs::read_dir(dir)
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .filter(|n| n.to_str().is_some_and(|n| n.contains("evil")))
            .collect()
    };
    let before = server.usage();
    for (what, bytes, word) in cases {
        let answer = server.try_deploy("hostile", bytes, &[]);
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        let error = answer.error();
        assert!(error.to_lowercase().contains(word), "{what}: '{error}' does not say '{word}'");
        assert!(!error.bytes().any(|b| b < 0x20) && error.len() < 1000, "{what}: {error:?}");
        assert!(!error.contains(server.data.to_str().unwrap()), "{what}: {error}");
        server.get("/info/hostile").expect(404);
    }
    server.settles_to(&before);
    assert_eq!(server.temporary(), Vec::<String>::new());
    let parent = server.data.parent().unwrap();
    for dir in [Path::new("/"), Path::new("/tmp"), parent, &server.data, &server.data.join("code")] {
        assert_eq!(outside(dir), Vec::<std::ffi::OsString>::new(), "written to {}", dir.display());
    }
    server.is_well();
}

#[test]
fn names_do_not_leave_the_tree() {
    let mut cases = Vec::new();
    for name in [
        "../evil.js",
        "../../../../../../../../tmp/evil",
        "/tmp/evil",
        "a/../../evil",
        "a/../../../evil",
        "C:\\evil",
        "C:/evil",
        "..\\evil",
        "\\\\host\\evil",
        "a\\..\\..\\evil",
        "./evil",
        "a//evil",
        "a/./evil",
        "",
        "..",
        "../",
        "/",
        "code-evil/../../x",
        "a\0evil",
        "a\nevil",
        "\x1b[2Jevil",
    ] {
        let e = Entry { name: name.as_bytes().to_vec(), ..entry("x", "evil") };
        // With a slash at its end it is refused even before its name is judged: a directory cannot have content.
        let word = if name.ends_with('/') { "error opening zip" } else { "illegal file path" };
        cases.push((name, zip(&[index(), e]), word));
    }
    cases.push((
        "not UTF-8",
        zip(&[index(), Entry { name: b"\xff\xfe\xc0\xae".to_vec(), ..entry("x", "evil") }]),
        "illegal file path",
    ));
    cases.push((
        "overlong dots",
        zip(&[index(), Entry { name: b"\xc0\xae\xc0\xae/evil".to_vec(), ..entry("x", "evil") }]),
        "illegal file path",
    ));
    cases.push(("a name of 300 bytes", zip(&[index(), entry(&"n".repeat(300), "evil")]), "long"));
    cases.push(("a path of 200 folders", zip(&[index(), entry(&format!("{}evil", "d/".repeat(200)), "evil")]), "long"));
    refused(&cases);
}

#[test]
fn links_and_special_files_are_not_taken_along() {
    let of_mode = |name: &str, data: &str, mode: u32| Entry { mode, ..entry(name, data) };
    let link = |name: &str, to: &str| of_mode(name, to, 0o120_777);
    refused(&[
        ("a link to a file of the host", zip(&[index(), link("shadow", "/etc/shadow")]), "link"),
        ("a link out of the tree", zip(&[index(), link("up", "../../../../etc/passwd")]), "link"),
        (
            "a link to a directory, then a file through it",
            zip(&[index(), link("d", "/tmp"), entry("d/evil", "x")]),
            "d",
        ),
        (
            "a link inside, then a file through it",
            zip(&[index(), entry("real/x", "x"), link("d", "real"), entry("d/evil", "x")]),
            "d",
        ),
        ("links in a circle", zip(&[index(), link("a", "b"), link("b", "a")]), "link"),
        ("a link out by another link", zip(&[index(), link("a", "."), link("b", "a/../../evil")]), "link"),
        ("a device", zip(&[index(), of_mode("disk", "", 0o060_666)]), "device"),
        ("a character device", zip(&[index(), of_mode("mem", "", 0o020_666)]), "device"),
        ("a pipe", zip(&[index(), of_mode("pipe", "", 0o010_666)]), "device"),
        ("a socket", zip(&[index(), of_mode("sock", "", 0o140_666)]), "device"),
    ]);
}

#[test]
fn links_that_stay_inside_and_plain_modes_are_fine() {
    let server = SERVER.get();
    let setuid = Entry { mode: 0o106_755, ..entry("bin/tool", "#!/bin/sh\n") };
    let link = Entry { mode: 0o120_777, ..entry("alias.js", "real.js") };
    let code = "const fs = require('fs'); exports.handler = async () => ({ body: [require('./alias.js'), (fs.statSync('/var/task/bin/tool').mode & 0o7777).toString(8)] });";
    server.deploy(
        "linked",
        &zip(&[entry("index.js", code), entry("real.js", "module.exports = 'through the link';"), link, setuid]),
        &[],
    );
    assert_eq!(
        server.invoke("linked", "").expect(200).json(),
        serde_json::json!(["through the link", "755"]),
        "no set-user-id bit stays"
    );
    server.delete("linked");
}

#[test]
fn archives_that_can_be_read_in_two_ways_are_refused() {
    let plain = zip(&[index()]);
    let twice = |first: &str, second: &str| zip(&[index(), entry(first, "1"), entry(second, "2")]);
    let mut before = b"MZ junk".to_vec();
    before.extend_from_slice(&plain);
    let mut after = plain.clone();
    after.extend_from_slice(b"junk");
    let mut two_ends = plain.clone();
    let end = two_ends.len() - 22;
    let record = two_ends[end..].to_vec();
    two_ends.extend_from_slice(&record);
    let mut comment = plain.clone();
    let at = comment.len() - 2;
    comment[at..].copy_from_slice(&500u16.to_le_bytes());
    let mut count = plain.clone();
    let at = count.len() - 14;
    count[at..at + 4].copy_from_slice(&[9, 0, 9, 0]);
    let second_name = {
        let mut extra = vec![0x75, 0x70, 13, 0, 1, 0, 0, 0, 0];
        extra.extend_from_slice(b"other.js");
        extra
    };
    refused(&[
        ("a name twice", twice("a.js", "a.js"), "twice"),
        ("twins by case", twice("a.js", "A.JS"), "case"),
        ("a file and a folder of one name", twice("a", "a/b"), "a"),
        ("a file and a folder entry", twice("a", "a/"), "a"),
        (
            "another name in front of the entry",
            zip(&[index(), Entry { local_name: Some(b"b.js".to_vec()), ..entry("a.js", "x") }]),
            "disagree",
        ),
        (
            "a second name in the extra field",
            zip(&[index(), Entry { extra: second_name, ..entry("a.js", "x") }]),
            "two names",
        ),
        ("data before it", before, "error opening zip"),
        ("data after it", after, "after its end"),
        ("two ends", two_ends, "error opening zip"),
        ("an end cut off", comment, "error opening zip"),
        ("more entries counted than there are", count, "error opening zip"),
        ("entries that overlap", zip(&[index(), Entry { offset: Some(0), ..index() }]), "error opening zip"),
        ("encrypted", zip(&[index(), Entry { flags: 1, ..entry("a.js", "x") }]), "encrypted"),
        ("a method that nobody knows", zip(&[index(), Entry { method: 97, ..entry("a.js", "x") }]), "method"),
        ("a wrong checksum", zip(&[Entry { crc: Some(1), ..index() }]), "damaged"),
        ("a size that lies", zip(&[index(), Entry { size: Some(5000), ..entry("a.js", "x") }]), "size"),
        ("a size of four gigabytes", zip(&[index(), Entry { size: Some(u32::MAX), ..entry("a.js", "x") }]), "size"),
        ("no files", zip(&[]), "no files"),
        ("folders only", zip(&[Entry { mode: 0o040_755, ..entry("a/", "") }]), "no files"),
        ("random bytes", (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect(), "zip"),
    ]);
    // The writer of these archives is not what is refused.
    let server = SERVER.get();
    server.deploy("clean", &plain, &[]);
    server.delete("clean");
}

#[test]
fn bombs_do_not_go_off() {
    let deflated = |size: usize, copies: usize| {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        let zeros = vec![0u8; 1 << 20];
        for i in 0..copies {
            writer.start_file(if i == 0 { "index.js".to_owned() } else { format!("z{i}") }, options).unwrap();
            for _ in 0..size >> 20 {
                writer.write_all(&zeros).unwrap();
            }
        }
        writer.finish().unwrap().into_inner()
    };
    // A real bomb that says a small size: what it unpacks to is counted, not believed.
    let mut lying = deflated(32 << 20, 1);
    let small = 100u32.to_le_bytes();
    let local = 22;
    lying[local..local + 4].copy_from_slice(&small);
    let directory = crate::harness::find(&lying, b"PK\x01\x02").unwrap() + 24;
    lying[directory..directory + 4].copy_from_slice(&small);
    let many: Vec<Entry> = (0..2500).map(|i| entry(&format!("f{i}"), "")).collect();
    let deep: Vec<Entry> = (0..100).map(|i| entry(&format!("{i}/{}x", "d/".repeat(40)), "")).collect();
    refused(&[
        ("one file of 128 MiB", deflated(128 << 20, 1), "unzipped size must be smaller than 67108864 bytes"),
        ("128 files of one MiB", deflated(1 << 20, 128), "unzipped size must be smaller than"),
        ("32 MiB that claim to be 100 bytes", lying, "zip"),
        ("2,500 empty files", zip(&many), "2000"),
        ("4,000 folders by 100 files", zip(&deep), "2000"),
    ]);
}

#[test]
fn an_archive_in_an_archive_is_a_file() {
    let server = SERVER.get();
    let inner = zip(&[entry("../evil", "x")]);
    server.deploy(
        "nested",
        &zip_of(&[
            (
                "index.js",
                b"exports.handler = async () => ({ body: require('fs').statSync('/var/task/inner.zip').size });",
            ),
            ("inner.zip", &inner),
        ]),
        &[],
    );
    assert_eq!(server.invoke("nested", "").expect(200).json(), inner.len());
    server.delete("nested");
}

#[test]
fn a_folder_around_everything_is_left_out() {
    let server = SERVER.get();
    server.deploy(
        "folder",
        &zip_of(&[
            ("my-function/index.js", b"exports.handler = async () => ({ body: 'inside' });"),
            ("my-function/lib/x.js", b""),
            ("__MACOSX/._index.js", b""),
        ]),
        &[],
    );
    assert_eq!(server.invoke("folder", "").expect(200).json(), "inside");
    server.delete("folder");
}

#[test]
fn settings_are_checked_before_anything_is_made() {
    let server = SERVER.get();
    let good = Lang::Node.inline("1");
    for (field, value, word) in [
        ("handler", "index;id.x", "handler"),
        ("handler", "$(id).x", "handler"),
        ("handler", "../x.y", "handler"),
        ("runtime", "node", "runtime"),
        ("runtime", "nodejs99.x", "nodejs99.x"),
        ("runtime", "{{7*7}}", "runtime"),
        ("memory", "63", "64"),
        ("memory", "99999999", "32768"),
        ("memory", "-1", "memory"),
        ("timeout", "0", "timeout"),
        ("timeout", "2h", "timeout"),
        ("timeout", "NaN", "timeout"),
        ("cpu", "1e9", "cpu"),
        ("tmp", "0", "tmp"),
        ("maxConcurrency", "0", "maxConcurrency"),
        ("env", r#"{"LD_PRELOAD":"/x"}"#, "LD_PRELOAD"),
        ("env", r#"{"_HANDLER":"x"}"#, "_HANDLER"),
        ("env", r#"{"A=B":"x"}"#, "environment name"),
        ("env", r#"{"A":"\u0000"}"#, "NUL"),
        ("env", r#"{"A":"1","A":"2"}"#, "twice"),
        ("env", "[]", "env"),
        ("snapshot", "maybe", "on or off"),
        ("network", "everything", "network"),
        ("convention", "soap", "convention"),
        ("colour", "red", "colour"),
    ] {
        let answer = server.try_deploy("checked", &good, &[(field, value)]).expect(400);
        assert!(answer.error().contains(word), "{field}={value}: {}", answer.text());
    }
    let big = format!("{{\"A\":\"{}\"}}", "x".repeat(4096));
    assert!(server.try_deploy("checked", &good, &[("env", &big)]).expect(400).error().contains("4096"));
    server.get("/info/checked").expect(404);
    // `PATH` may be chosen, as on AWS; it does not decide what is executed by the server.
    server.deploy("checked", &good, &[("env", r#"{"PATH":"/nowhere"}"#)]);
    server.invoke("checked", "").expect(200);
    server.delete("checked");
}

/// Many clients deploy the same name at once: one after the other, each whole.
#[test]
fn deployments_of_one_name_do_not_mix() {
    let server = SERVER.get();
    let answers = parallel(8, |i| {
        server.deploy(
            "contested",
            &Lang::Node.inline(&format!("'from {i}'")),
            &[("env", &format!("{{\"FROM\":\"{i}\"}}"))],
        )
    });
    let mut revisions: Vec<u64> = answers.iter().map(|a| a["revision"].as_u64().unwrap()).collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 8, "every deployment made a revision of its own");
    let info = server.get("/info/contested").json();
    let from = info["env"]["FROM"].as_str().unwrap();
    assert_eq!(
        server.invoke("contested", "").expect(200).json(),
        format!("from {from}"),
        "code and configuration of one deployment"
    );
    let last = answers.iter().max_by_key(|a| a["revision"].as_u64()).unwrap();
    assert_eq!((&info["codeSha256"], &info["revision"]), (&last["codeSha256"], &last["revision"]));
    server.delete("contested");
}

#[test]
fn forms_may_be_malformed_in_every_way() {
    let server = SERVER.get();
    let send = |kind: &str, body: &[u8]| server.request("POST", "/deploy", &[("Content-Type", kind)], body);
    let part = |head: &str, data: &str| format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{data}\r\n");
    let ok = "multipart/form-data; boundary=b";
    let file = part("name=\"file\"; filename=\"x.zip\"", "data");
    for (what, kind, body) in [
        ("no boundary", "multipart/form-data", file.clone()),
        ("an empty boundary", "multipart/form-data; boundary=", file.clone()),
        ("another boundary", "multipart/form-data; boundary=c", file.clone() + "--b--\r\n"),
        ("another type", "application/json", "{}".to_owned()),
        ("no end", ok, file.clone()),
        ("nothing", ok, String::new()),
        ("no name", ok, part("filename=\"x.zip\"", "x") + "--b--\r\n"),
        (
            "the same field twice",
            ok,
            part("name=\"funcName\"", "a") + &part("name=\"funcName\"", "b") + &file + "--b--\r\n",
        ),
        ("two files", ok, file.clone() + &file + "--b--\r\n"),
        ("too many parts", ok, part("name=\"x\"", "1").repeat(100_000) + "--b--\r\n"),
        ("endless part head", ok, format!("--b\r\nX: {}", "y".repeat(200_000))),
        ("endless preamble", ok, "p".repeat(2 << 20)),
        ("a field of a megabyte", ok, part("name=\"funcName\"", &"n".repeat(1 << 20)) + &file + "--b--\r\n"),
        (
            "form in a form",
            ok,
            "--b\r\nContent-Disposition: form-data; name=\"file\"\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n".to_owned(),
        ),
    ] {
        let answer = send(kind, body.as_bytes());
        assert!(answer.status == 400, "{what}: {} {}", answer.status, answer.text());
        assert!(!answer.error().is_empty(), "{what}: {}", answer.text());
    }
    // Other tests upload to the same server meanwhile.
    eventually("nothing of these is left", Duration::from_secs(30), || server.temporary().is_empty());
    server.is_well();
}
