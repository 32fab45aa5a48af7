//! Archives that lie, in every way that is known, built byte by byte.

use super::*;
use std::collections::BTreeMap;
use std::path::Path;

/// One entry, every field of which can be wrong.
#[derive(Debug, Clone)]
struct E {
    name: Vec<u8>,
    /// The name in the entry's own header, if it differs.
    own_name: Option<Vec<u8>>,
    data: Vec<u8>,
    size: u32,
    crc: u32,
    own_crc: Option<u32>,
    own_size: Option<u32>,
    method: u16,
    flags: u16,
    mode: u32,
    host: u16,
    extra: Vec<u8>,
    own_extra: Vec<u8>,
    after: Vec<u8>,
    offset: Option<u32>,
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}

fn file(name: &str, data: &str) -> E {
    raw(name.as_bytes(), data.as_bytes(), 0o100_644)
}
fn dir(name: &str) -> E {
    raw(name.as_bytes(), b"", 0o040_755)
}
fn link(name: &str, target: &str) -> E {
    raw(name.as_bytes(), target.as_bytes(), 0o120_777)
}
fn raw(name: &[u8], data: &[u8], mode: u32) -> E {
    E {
        name: name.to_vec(),
        own_name: None,
        data: data.to_vec(),
        size: data.len() as u32,
        crc: crc32(data),
        own_crc: None,
        own_size: None,
        method: 0,
        flags: 0,
        mode,
        host: 3,
        extra: vec![],
        own_extra: vec![],
        after: vec![],
        offset: None,
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|p| out.extend_from_slice(p));
}

fn build(entries: &[E]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for e in entries {
        let at = e.offset.unwrap_or(out.len() as u32);
        let own = e.own_name.as_ref().unwrap_or(&e.name);
        let packed = (e.data.len() as u32).to_le_bytes();
        if e.offset.is_none() {
            let (crc, size) = (e.own_crc.unwrap_or(e.crc).to_le_bytes(), e.own_size.unwrap_or(e.size).to_le_bytes());
            let lens = [(own.len() as u16).to_le_bytes(), (e.own_extra.len() as u16).to_le_bytes()].concat();
            put(
                &mut out,
                &[
                    b"PK\x03\x04\x14\0",
                    &e.flags.to_le_bytes(),
                    &e.method.to_le_bytes(),
                    &[0; 4],
                    &crc,
                    &packed,
                    &size,
                    &lens,
                ],
            );
            put(&mut out, &[own, &e.own_extra, &e.data, &e.after]);
        }
        let lens = [(e.name.len() as u16).to_le_bytes(), (e.extra.len() as u16).to_le_bytes()].concat();
        put(&mut directory, &[b"PK\x01\x02\x14", &[0], b"\x14\0"]);
        let made_by = directory.len() - 3;
        directory[made_by] = e.host as u8;
        put(
            &mut directory,
            &[
                &e.flags.to_le_bytes(),
                &e.method.to_le_bytes(),
                &[0; 4],
                &e.crc.to_le_bytes(),
                &packed,
                &e.size.to_le_bytes(),
            ],
        );
        put(&mut directory, &[&lens, &[0; 6], &(e.mode << 16).to_le_bytes(), &at.to_le_bytes(), &e.name, &e.extra]);
    }
    let (start, n) = (out.len() as u32, (entries.len() as u16).to_le_bytes());
    let len = directory.len() as u32;
    put(&mut out, &[&directory, b"PK\x05\x06\0\0\0\0", &n, &n, &len.to_le_bytes(), &start.to_le_bytes(), &[0; 2]]);
    out
}

/// A temporary directory with a sentinel, an archive and the place of a tree, to see what an archive does to all of it.
struct Stand {
    dir: tempfile::TempDir,
}

impl Stand {
    fn new() -> Stand {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("sentinel"), "untouched").unwrap();
        std::fs::create_dir(dir.path().join("tree-evil")).unwrap();
        Stand { dir }
    }
    fn unpack(&self, bytes: &[u8], limits: &Limits) -> Result<Unpacked, Error> {
        let path = self.dir.path().join("a.zip");
        std::fs::write(&path, bytes).unwrap();
        let tree = Tree::create(&self.dir.path().join("tree")).unwrap();
        let done = unpack(&File::open(&path).unwrap(), &tree, limits, Wrapping::Strip);
        assert_eq!(std::fs::read_to_string(self.dir.path().join("sentinel")).unwrap(), "untouched");
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 4, "something was made beside the tree");
        assert_eq!(std::fs::read_dir(self.dir.path().join("tree-evil")).unwrap().count(), 0);
        done
    }
    fn tree(&self) -> std::path::PathBuf {
        self.dir.path().join("tree")
    }
}

fn refused(bytes: &[u8]) -> String {
    let error = Stand::new().unpack(bytes, &Limits::default()).expect_err("was accepted");
    assert_eq!(error.kind, ErrorKind::BadArchive, "{error}");
    error.message
}

/// The paths of an accepted archive.
fn accepted(bytes: &[u8]) -> Vec<String> {
    let done = Stand::new().unpack(bytes, &Limits::default());
    done.unwrap_or_else(|e| panic!("{e} ({:?})", e.source)).nodes.iter().map(|n| n.path().to_owned()).collect()
}

fn deflated(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, data) in files {
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .compression_level(Some(1));
        writer.start_file(*name, options).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Changes the size that both accounts of the first entry declare.
fn declare(mut zip: Vec<u8>, size: u32) -> Vec<u8> {
    let directory = zip.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    zip[22..26].copy_from_slice(&size.to_le_bytes());
    zip[directory + 24..directory + 28].copy_from_slice(&size.to_le_bytes());
    zip
}

#[test]
fn ordinary_archives_are_unpacked_as_they_are() {
    let stand = Stand::new();
    let mut run = file("bin/run", "#!/bin/sh");
    run.mode = 0o100_755;
    let mut hidden = file("secret", "x");
    hidden.mode = 0o100_600;
    let entries =
        [dir("lib/"), file("lib/a.js", "a"), run, hidden, file("index.js", "exports.handler = 1"), file("ünï.txt", "")];
    let nodes = stand.unpack(&build(&entries), &Limits::default()).unwrap().nodes;
    let paths: Vec<&str> = nodes.iter().map(Node::path).collect();
    assert_eq!(paths, ["bin", "bin/run", "index.js", "lib", "lib/a.js", "secret", "ünï.txt"]);
    let mode = |p: &str| {
        std::os::unix::fs::PermissionsExt::mode(&stand.tree().join(p).metadata().unwrap().permissions()) & 0o7777
    };
    assert_eq!(
        (mode("bin/run"), mode("secret"), mode("index.js"), mode("lib"), mode("bin")),
        (0o755, 0o644, 0o644, 0o755, 0o755)
    );
    assert_eq!(std::fs::read_to_string(stand.tree().join("index.js")).unwrap(), "exports.handler = 1");
    assert_eq!(accepted(&deflated(&[("index.js", &[7; 100_000])])), ["index.js"]);
}

#[test]
fn what_is_not_a_zip_is_named_so() {
    let good = build(&[file("index.js", "x")]);
    for bytes in [&b""[..], b"x", b"not a zip at all", &[0; 100], &good[..good.len() - 1], &good[..40], b"PK\x05\x06"] {
        assert!(refused(bytes).starts_with("error opening zip"), "{bytes:?}");
    }
    assert_eq!(refused(&build(&[])), "the archive has no files");
    assert_eq!(refused(&build(&[dir("a/"), dir("a/b/")])), "the archive has no files");
}

#[test]
fn names_that_leave_the_tree_are_refused() {
    for name in [
        "../x",
        "a/../../x",
        "/etc/x",
        "C:\\x",
        "C:/x",
        "..\\x",
        "a\\..\\..\\x",
        "../tree-evil/x",
        "./x",
        "a//b",
        "a\0b",
        "",
    ] {
        let message = refused(&build(&[file("index.js", "x"), raw(name.as_bytes(), b"x", 0o100_644)]));
        assert!(message.starts_with("illegal file path"), "{name:?}: {message}");
    }
    for name in [&b"\xff\xfe"[..], b"..\xc0\xaf..", b"a\xed\xa0\x80"] {
        refused(&build(&[raw(name, b"x", 0o100_644)]));
    }
    assert!(!refused(&build(&[file("\x1b[2J../x", "")])).contains('\x1b'));
}

#[test]
fn links_stay_inside() {
    let app = file("node_modules/tool/cli.js", "x");
    let good = [
        app.clone(),
        link("node_modules/.bin/tool", "../tool/cli.js"),
        link("current", "node_modules"),
        link("via", "current/tool/cli.js"),
    ];
    assert_eq!(accepted(&build(&good)).len(), 7);
    accepted(&build(&[app.clone(), link("dangling", "not/there")]));
    for target in ["/etc/passwd", "../x", "..", "node_modules/../../x", "a/../../x", "\\x", "a\nb", ""] {
        refused(&build(&[app.clone(), link("l", target)]));
    }
    refused(&build(&[app.clone(), link("node_modules/up", ".."), link("l", "node_modules/up/../x")]));
    refused(&build(&[app.clone(), link("a/b/deep", "../.."), link("l", "a/b/deep/../../etc/passwd")]));
    refused(&build(&[app.clone(), link("loop", "loop")]));
    refused(&build(&[app.clone(), link("a", "b"), link("b", "a")]));
    // a file through a link, in both orders, and a link whose type only some readers see
    refused(&build(&[link("d", "node_modules"), app.clone(), file("d/x", "x")]));
    refused(&build(&[file("d/x", "x"), app.clone(), link("d", "node_modules")]));
    let mut foreign = link("l", "node_modules");
    foreign.host = 0;
    refused(&build(&[app, foreign]));
}

#[test]
fn specials_are_refused_and_privileges_dropped() {
    for mode in [0o020_644, 0o060_644, 0o010_644, 0o140_644, 0o150_000] {
        assert!(refused(&build(&[raw(b"x", b"", mode)])).contains("device"), "{mode:o}");
    }
    refused(&build(&[raw(b"x", b"", 0o040_755)]));
    refused(&build(&[raw(b"x/", b"", 0o100_755)]));
    refused(&build(&[raw(b"x/", b"content", 0o040_755)]));
    let stand = Stand::new();
    let nodes = stand.unpack(&build(&[raw(b"index.js", b"", 0o107_777)]), &Limits::default()).unwrap().nodes;
    assert!(matches!(&nodes[0], Node::File { mode: 0o755, .. }));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&stand.tree().join("index.js").metadata().unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn an_archive_with_two_readings_is_refused() {
    let f = |n: &str| file(n, "x");
    refused(&build(&[f("a"), f("a")]));
    refused(&build(&[f("a"), dir("a/")]));
    refused(&build(&[dir("a/"), dir("a/")]));
    refused(&build(&[f("a/b"), f("a")]));
    refused(&build(&[f("a"), f("a/b")]));
    assert!(refused(&build(&[f("Read.me"), f("read.ME")])).contains("differ only in case"));
    refused(&build(&[f("A"), f("a/b")]));
    accepted(&build(&[f("A/x"), f("a/y")]));

    let with = |change: &dyn Fn(&mut E)| {
        let mut e = f("index.js");
        change(&mut e);
        build(&[f("first"), e, f("last")])
    };
    refused(&with(&|e| e.own_name = Some(b"other.js".to_vec())));
    refused(&with(&|e| e.own_crc = Some(1)));
    refused(&with(&|e| e.own_size = Some(9)));
    refused(&with(&|e| e.size = 9));
    refused(&with(&|e| e.crc = 9));
    refused(&with(&|e| e.after = b"hidden".to_vec()));
    refused(&with(&|e| (e.extra, e.own_extra) = (b"up\x0c\0\x01\0\0\0\0evil.js".to_vec(), vec![])));
    refused(&with(&|e| e.extra = b"\x01\0\x08\0\0".to_vec()));
    refused(&with(&|e| e.own_extra = b"\xff".to_vec()));
    for (flags, method) in
        [(1, 0), (1 << 6 | 1, 0), (1 << 5, 0), (1 << 13, 0), (0, 9), (0, 12), (0, 14), (0, 93), (0, 99)]
    {
        refused(&with(&|e| (e.flags, e.method) = (flags, method)));
    }
    // overlapping: two names for the same data, as in a bomb that quotes itself
    let mut quoted = f("quoted");
    quoted.offset = Some(0);
    refused(&build(&[f("first"), quoted]));
}

#[test]
fn nothing_is_before_between_or_behind() {
    let good = build(&[file("index.js", "x")]);
    assert!(refused(&[b"#!/bin/sh\nexit\n", &good[..]].concat()).contains("error opening zip"));
    assert!(refused(&[&good[..], b"tail"].concat()).contains("data after its end"));
    assert!(refused(&[&good[..], &good[..]].concat()).contains("error opening zip"));

    let with_comment = |comment: &[u8]| {
        let mut zip = good.clone();
        let n = zip.len();
        zip[n - 2..].copy_from_slice(&(comment.len() as u16).to_le_bytes());
        [&zip[..], comment].concat()
    };
    accepted(&with_comment(b"made by hand"));
    let end = &good[good.len() - 22..];
    assert!(refused(&with_comment(end)).contains("two end records"));
    refused(&with_comment(&[end, b"x"].concat()));

    // self-extracting: offsets are right, but a program stands in front
    let mut shifted = build(&[file("index.js", "x")]);
    let n = shifted.len();
    let directory = shifted.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    shifted[directory + 42..directory + 46].copy_from_slice(&4u32.to_le_bytes());
    let start = u32::from_le_bytes(shifted[n - 6..n - 2].try_into().unwrap()) + 4;
    shifted[n - 6..n - 2].copy_from_slice(&start.to_le_bytes());
    assert!(refused(&[b"STUB", &shifted[..]].concat()).contains("before its first entry"));
}

#[test]
fn streamed_entries_must_be_described_truly() {
    let streamed = |after: Vec<u8>| {
        let mut e = file("index.js", "x");
        (e.flags, e.own_crc, e.own_size, e.after) = (8, Some(0), Some(0), after);
        build(&[e, file("b", "y")])
    };
    let (crc, one) = (crc32(b"x").to_le_bytes(), 1u32.to_le_bytes());
    let wide = 1u64.to_le_bytes();
    accepted(&streamed([&crc[..], &one, &one].concat()));
    accepted(&streamed([b"PK\x07\x08", &crc[..], &one, &one].concat()));
    accepted(&streamed([&crc[..], &wide, &wide].concat()));
    accepted(&streamed([b"PK\x07\x08", &crc[..], &wide, &wide].concat()));
    refused(&streamed(vec![]));
    refused(&streamed([&one[..], &one, &one].concat()));
    refused(&streamed([b"PK\x07\x09", &crc[..], &one, &one].concat()));
    refused(&streamed([&crc[..], &one, &one, b"hide"].concat()));
}

#[test]
fn zip64_is_read_and_its_lies_refused() {
    let wide = |size: u64, start: u64, entries: u64| {
        let plain = build(&[file("index.js", "x")]);
        let (body, end) = plain.split_at(plain.len() - 22);
        let mut record = b"PK\x06\x06".to_vec();
        put(
            &mut record,
            &[
                &44u64.to_le_bytes(),
                b"\x2d\0\x2d\0",
                &[0; 8],
                &entries.to_le_bytes(),
                &entries.to_le_bytes(),
                &size.to_le_bytes(),
                &start.to_le_bytes(),
            ],
        );
        let locator = [b"PK\x06\x07\0\0\0\0", &(body.len() as u64).to_le_bytes()[..], &1u32.to_le_bytes()].concat();
        let mut end = end.to_vec();
        end[8..20].fill(0xff);
        [body, &record, &locator, &end].concat()
    };
    let start = build(&[file("index.js", "x")]).windows(4).position(|w| w == b"PK\x01\x02").unwrap() as u64;
    accepted(&wide(46 + 8, start, 1));
    for (size, start, entries) in [
        (54, start, 2),
        (54, start + 1, 1),
        (53, start, 1),
        (u64::MAX, start, 1),
        (54, u64::MAX, 1),
        (54, start, u64::MAX),
        (54, start, 0),
    ] {
        refused(&wide(size, start, entries));
    }
    let lying = |size: u64, method: u16| {
        let mut e = file("index.js", "x");
        e.method = method;
        e.size = u32::MAX;
        e.extra = [b"\x01\0\x08\0", &size.to_le_bytes()[..]].concat();
        e.own_extra = [b"\x01\0\x10\0", &size.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        build(&[e])
    };
    accepted(&lying(1, 0));
    for size in [4 << 30, u64::MAX] {
        assert!(refused(&lying(size, 0)).contains("two sizes"));
        assert_eq!(refused(&lying(size, 8)), "Unzipped size must be smaller than 262144000 bytes");
    }
}

#[test]
fn bombs_end_at_the_limits() {
    let limits = Limits { unzipped_bytes: 1 << 20, archive_entries: 100, ..Limits::default() };
    let refused = |bytes: &[u8]| Stand::new().unpack(bytes, &limits).expect_err("was accepted").message;
    let bomb = deflated(&[("index.js", &vec![0; 4 << 20])]);
    assert!(bomb.len() < 64 << 10);
    assert_eq!(refused(&bomb), "Unzipped size must be smaller than 1048576 bytes");
    assert_eq!(
        refused(&deflated(&[("a", &vec![0; 600 << 10]), ("b", &vec![0; 600 << 10])])),
        "Unzipped size must be smaller than 1048576 bytes"
    );
    assert!(refused(&declare(bomb.clone(), 10)).contains("more than it declares"));
    assert!(refused(&declare(deflated(&[("a", &[0; 100])]), 101)).contains("less than it declares"));

    let many: Vec<E> = (0..101).map(|i| file(&format!("{i}"), "")).collect();
    assert!(refused(&build(&many)).contains("at most 100"));
    let deep: Vec<E> = (0..3).map(|i| file(&format!("{i}{}", "/x".repeat(60)), "")).collect();
    assert!(refused(&build(&deep)).contains("more than 100 files and directories"));
    // a zip in a zip is a file
    Stand::new().unpack(&build(&[raw(b"inner.zip", &bomb, 0o100_644)]), &limits).unwrap();
}

#[test]
fn damaged_data_is_noticed() {
    let mut zip = deflated(&[("index.js", &(0..=255u8).cycle().take(10_000).collect::<Vec<_>>())]);
    zip[60] ^= 0x55;
    refused(&zip);
    let mut stored = build(&[file("index.js", "hello")]);
    let at = stored.windows(5).position(|w| w == b"hello").unwrap();
    stored[at] = b'j';
    assert!(refused(&stored).contains("damaged"));
}

#[test]
fn a_folder_around_everything_is_left_out_when_the_program_is_in_it() {
    let stripped = |entries: &[E]| {
        let done = Stand::new().unpack(&build(entries), &Limits::default()).unwrap();
        (done.stripped, done.nodes.iter().map(|n| n.path().to_owned()).collect::<Vec<_>>())
    };
    let f = |n: &str| file(n, "x");
    assert_eq!(
        stripped(&[dir("my/"), f("my/index.js"), f("my/lib/a.js")]),
        (Some("my".into()), vec!["index.js".into(), "lib".into(), "lib/a.js".into()])
    );
    assert_eq!(stripped(&[f("my/app.py"), f("__MACOSX/my/._app.py"), f(".DS_Store")]).1, ["app.py"]);
    assert_eq!(stripped(&[f("my/package.json"), f("my/src/x.js")]).0.as_deref(), Some("my"));
    assert_eq!(stripped(&[f("my/index.js"), f("README")]).0, None);
    assert_eq!(stripped(&[f("src/other.js")]).0, None);
    assert_eq!(stripped(&[f("pkg/__init__.py"), f("pkg/app.py")]).0, None);
    assert_eq!(stripped(&[f("index.js/index.js"), f("x/y")]).0, None);
    // what led inside the archive and now leads out of the tree
    refused(&build(&[f("my/index.js"), link("my/l", "../my/index.js")]));
}

/// What is under a path: for each name its content or kind.
fn snapshot(path: &Path) -> BTreeMap<std::path::PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap().flatten() {
        let about = entry.path().symlink_metadata().unwrap();
        if about.is_dir() {
            found.extend(snapshot(&entry.path()));
        }
        found.insert(entry.path(), format!("{:?} {}", about.file_type(), about.len()));
    }
    found
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    /// Everything that an archive may be made of, good and bad, mixed.
    fn entry() -> impl Strategy<Value = E> {
        let names = prop::sample::select(vec![
            "a",
            "a/",
            "a/b",
            "A",
            "../x",
            "/x",
            "l",
            "l/x",
            "index.js",
            "d/index.js",
            "..",
            "tree-evil/x",
            "a\\b",
            "é",
        ]);
        let kinds = prop::sample::select(vec![0o100_644u32, 0o100_755, 0o040_755, 0o120_777, 0o120_777, 0o010_644, 0]);
        let data =
            prop::sample::select(vec!["", "x", "..", "../..", "a", "a/b", "../tree-evil", "/etc", "index.js", "d/.."]);
        (names, kinds, data).prop_map(|(name, mode, data)| raw(name.as_bytes(), data.as_bytes(), mode))
    }

    /// Unpacks whatever it is; what is accepted must be exactly what is there.
    fn try_it(bytes: &[u8]) {
        let limits = Limits { unzipped_bytes: 1 << 20, archive_entries: 1000, ..Limits::default() };
        let stand = Stand::new();
        if let Ok(done) = stand.unpack(bytes, &limits) {
            let there: Vec<_> = snapshot(&stand.tree()).into_keys().collect();
            let said: Vec<_> = done.nodes.iter().map(|n| stand.tree().join(n.path())).collect();
            assert_eq!(there.len(), said.len());
            assert!(said.iter().all(|p| there.contains(p)));
            for path in there {
                if let Ok(real) = path.canonicalize() {
                    assert!(real.starts_with(stand.tree().canonicalize().unwrap()), "{path:?} leads to {real:?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            try_it(&bytes);
        }

        #[test]
        fn any_mixture_of_entries(entries in prop::collection::vec(entry(), 0..6)) {
            try_it(&build(&entries));
        }

        #[test]
        fn any_mutation(
            deflate in any::<bool>(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
        ) {
            let mut zip = if deflate {
                deflated(&[("index.js", b"exports.handler"), ("lib/a", &[0; 5000])])
            } else {
                build(&[file("index.js", "exports.handler"), dir("lib/"), link("lib/l", "../index.js"), file("lib/b", "bb")])
            };
            for (at, byte, what) in edits {
                let i = at.index(zip.len());
                match what {
                    0 => zip[i] = byte,
                    1 => zip[i] ^= 1 << (byte % 8),
                    2 => drop(zip.remove(i)),
                    _ => zip.insert(i, byte),
                }
            }
            try_it(&zip);
        }
    }
}
