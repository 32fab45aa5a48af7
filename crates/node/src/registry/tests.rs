//! The registry's verbs on a real directory.

use super::*;
use crate::runtime::Installed;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap() }
    }
    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
    fn open(&self) -> Result<Arc<Registry>, Error> {
        let entry = |n: &str| Installed {
            name: RuntimeName::parse(n).unwrap(),
            version: "1.2.3".into(),
            executable: "/usr/bin/true".into(),
            prefix: None,
        };
        let table = RuntimeTable::of(vec![entry("nodejs20.x"), entry("python3.11")], false);
        Registry::open(&self.data(), Limits::default(), table)
    }
    fn zip(&self, files: &[(&str, &str)]) -> PathBuf {
        let path = self.dir.path().join(format!("{}.zip", code_name()));
        let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, text) in files {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        path
    }
    fn request(&self, name: &str, files: &[(&str, &str)]) -> DeployRequest {
        DeployRequest { archive: self.zip(files), name: fname(name), settings: Settings::default() }
    }
    /// Names under the data directory's folder.
    fn names(&self, folder: &str) -> Vec<String> {
        std::fs::read_dir(self.data().join(folder))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }
}

fn code_name() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn fname(text: &str) -> FunctionName {
    FunctionName::parse(text).unwrap()
}

const HELLO: &[(&str, &str)] = &[("index.js", "exports.handler = async () => ({})")];

#[tokio::test]
async fn what_is_deployed_is_there_after_a_restart() {
    let home = Home::new();
    let registry = home.open().unwrap();
    let mut changes = registry.subscribe();
    let version = registry.deploy(home.request("hello", HELLO)).await.unwrap();
    assert_eq!(
        (version.config.runtime.to_string().as_str(), version.config.handler.as_str()),
        ("nodejs20.x", "index.handler")
    );
    assert_eq!((version.revision, version.config.convention), (1, Convention::Request));
    assert_eq!(changes.recv().await.unwrap(), fname("hello"));
    let file = registry.code_dir().join(version.code.as_str()).join("index.js");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o644);
    version.stats.invocations.store(7, Ordering::Relaxed);
    version.stats.last_invoked_ms.store(99, Ordering::Relaxed);
    registry.flush_stats().unwrap();
    registry.flush_stats().unwrap();
    drop((registry, version));

    let registry = home.open().unwrap();
    let again = registry.resolve(&fname("hello")).unwrap();
    assert_eq!((again.revision, again.stats.read()), (1, (7, 99)));
    registry.verify_code(&again.code).await.unwrap();
    assert!(registry.resolve(&fname("other")).is_none());
    assert_eq!(home.names("tmp").len(), 0);
}

#[tokio::test]
async fn revisions_are_never_reused_and_counters_survive_changes() {
    let home = Home::new();
    let registry = home.open().unwrap();
    let first = registry.deploy(home.request("f", HELLO)).await.unwrap();
    first.stats.invocations.store(3, Ordering::Relaxed);
    let second = registry.deploy(home.request("f", &[("index.mjs", "2")])).await.unwrap();
    let settings = Settings { memory: Some(MiB(256)), concurrency: Some(5), ..Settings::default() };
    let third = registry.configure(&fname("f"), settings.clone()).await.unwrap();
    assert_eq!((first.revision, second.revision, third.revision), (1, 2, 3));
    assert_eq!(
        (third.config.memory, third.config.concurrency, third.created_ms),
        (MiB(256), Some(5), first.created_ms)
    );
    assert_eq!(registry.configure(&fname("f"), settings).await.unwrap().revision, 3, "nothing changed");
    let fourth =
        registry.configure(&fname("f"), Settings { concurrency: Some(0), ..Settings::default() }).await.unwrap();
    assert_eq!((fourth.config.concurrency, fourth.stats.read().0), (None, 3));
    registry.delete(&fname("f")).await.unwrap();
    assert_eq!(registry.delete(&fname("f")).await.unwrap_err().kind, ErrorKind::NotFound);
    let anew = registry.deploy(home.request("f", HELLO)).await.unwrap();
    assert_eq!((anew.revision, anew.stats.read()), (5, (0, 0)));
}

#[tokio::test]
async fn a_redeployment_keeps_what_fits() {
    let home = Home::new();
    let registry = home.open().unwrap();
    let mut request = home.request("f", &[("src/a.js", ""), ("index.js", "")]);
    request.settings = Settings {
        handler: Some("src/a.run".into()),
        memory: Some(MiB(512)),
        convention: Some(Convention::Event),
        ..Settings::default()
    };
    registry.deploy(request).await.unwrap();
    let same = registry.deploy(home.request("f", &[("src/a.js", "2"), ("index.js", "")])).await.unwrap();
    assert_eq!((same.config.handler.as_str(), same.config.convention), ("src/a.run", Convention::Event));
    let other = registry.deploy(home.request("f", &[("main.py", "")])).await.unwrap();
    assert_eq!(
        (other.config.handler.as_str(), other.config.runtime.to_string().as_str(), other.config.memory),
        ("main.handler", "python3.11", MiB(512))
    );
    assert_eq!(other.config.convention, Convention::Request);
}

#[tokio::test]
async fn refusals_leave_nothing_behind() {
    let home = Home::new();
    let registry = home.open().unwrap();
    let refuse = async |request: DeployRequest, kind| {
        let error = registry.deploy(request).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        error.message
    };
    refuse(home.request("f", &[("readme.txt", "")]), ErrorKind::InvalidInput).await;
    refuse(home.request("f", &[("../index.js", "")]), ErrorKind::BadArchive).await;
    let mut request = home.request("f", HELLO);
    request.settings.memory = Some(MiB(1));
    refuse(request, ErrorKind::InvalidInput).await;
    let mut request = home.request("f", HELLO);
    request.settings.env = Some(BTreeMap::from([("LD_PRELOAD".into(), "x".into())]));
    refuse(request, ErrorKind::InvalidInput).await;
    let mut request = home.request("f", HELLO);
    request.settings.runtime = Some(RuntimeName::parse("nodejs22.x").unwrap());
    refuse(request, ErrorKind::RuntimeMissing).await;
    let garbage = home.dir.path().join("garbage.zip");
    std::fs::write(&garbage, "not a zip").unwrap();
    let request = |archive| DeployRequest { archive, name: fname("f"), settings: Settings::default() };
    assert!(refuse(request(garbage), ErrorKind::BadArchive).await.contains("error opening zip"));
    assert!(refuse(request(home.dir.path().join("none")), ErrorKind::BadArchive).await.contains("error opening zip"));
    let large = home.dir.path().join("large.zip");
    File::create(&large).unwrap().set_len(50 << 20).unwrap();
    assert_eq!(refuse(request(large), ErrorKind::TooLarge).await, "Zipped size must be smaller than 52428800 bytes");
    for folder in ["code", "code.meta", "tmp"] {
        assert_eq!(home.names(folder), Vec::<String>::new(), "{folder}");
    }
    assert!(registry.list().is_empty());
    assert_eq!(registry.configure(&fname("f"), Settings::default()).await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn the_same_archive_is_stored_once_and_removed_when_nobody_wants_it() {
    let home = Home::new();
    let registry = home.open().unwrap();
    let archive = home.zip(HELLO);
    let deploy = async |name: &str| {
        registry
            .deploy(DeployRequest { archive: archive.clone(), name: fname(name), settings: Settings::default() })
            .await
            .unwrap()
    };
    let (a, b) = (deploy("a").await, deploy("b").await);
    assert_eq!(a.code, b.code);
    assert_eq!(home.names("code").len(), 1);
    let nobody = HashSet::new();
    registry.delete(&fname("a")).await.unwrap();
    assert_eq!(registry.collect_garbage(&nobody).unwrap(), 0, "b refers to it");
    registry.delete(&fname("b")).await.unwrap();
    assert_eq!(registry.collect_garbage(&nobody).unwrap(), 0, "versions are held");
    let code = a.code.clone();
    drop((a, b));
    assert_eq!(registry.collect_garbage(&HashSet::from([code])).unwrap(), 0, "instances run it");
    assert_eq!(registry.collect_garbage(&nobody).unwrap(), 1);
    assert_eq!((home.names("code").len(), home.names("code.meta").len(), home.names("tmp").len()), (0, 0, 0));
    deploy("a").await;
}

#[tokio::test]
async fn code_that_was_changed_on_disk_is_not_run_and_a_deployment_repairs_it() {
    let files: &[(&str, &str)] = &[("index.js", "good"), ("lib/a.js", "a")];
    let changes: &[fn(&Path)] = &[
        |tree| std::fs::write(tree.join("index.js"), "evil").unwrap(),
        |tree| std::fs::remove_file(tree.join("lib/a.js")).unwrap(),
        |tree| std::fs::write(tree.join("lib/more.js"), "x").unwrap(),
        |tree| std::fs::set_permissions(tree.join("index.js"), std::fs::Permissions::from_mode(0o4755)).unwrap(),
        |tree| {
            std::fs::remove_file(tree.join("index.js")).unwrap();
            std::os::unix::fs::symlink("lib/a.js", tree.join("index.js")).unwrap();
        },
        |tree| std::fs::remove_dir_all(tree).unwrap(),
    ];
    for change in changes {
        let home = Home::new();
        let registry = home.open().unwrap();
        let archive = home.zip(files);
        let request = || DeployRequest { archive: archive.clone(), name: fname("f"), settings: Settings::default() };
        let version = registry.deploy(request()).await.unwrap();
        registry.verify_code(&version.code).await.unwrap();
        let (code, tree) = (version.code.clone(), registry.code_dir().join(version.code.as_str()));
        drop(registry);
        change(&tree);
        let registry = home.open().unwrap();
        let error = registry.verify_code(&code).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::CodeCorrupt);
        assert!(!error.message.contains(&*home.data().to_string_lossy()));
        assert!(registry.verify_code(&code).await.is_err(), "the answer stays");
        registry.deploy(request()).await.unwrap();
        registry.verify_code(&code).await.unwrap();
        assert_eq!(std::fs::read_to_string(tree.join("index.js")).unwrap(), "good");
    }
}

#[tokio::test]
async fn a_damaged_manifest_is_damaged_code() {
    let home = Home::new();
    let registry = home.open().unwrap();
    let version = registry.deploy(home.request("f", HELLO)).await.unwrap();
    drop(registry);
    let manifest = home.data().join("code.meta").join(format!("{}.json", version.code));
    std::fs::write(manifest, "{").unwrap();
    let registry = home.open().unwrap();
    assert_eq!(registry.verify_code(&version.code).await.unwrap_err().kind, ErrorKind::CodeCorrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_deployments_at_once_end_in_one_of_each() {
    let home = Home::new();
    let registry = home.open().unwrap();
    let shared = home.zip(HELLO);
    let mut tasks = Vec::new();
    for i in 0..24 {
        let own = home.zip(&[("index.js", &format!("{}", i % 5))]);
        let archive = if i % 2 == 0 { shared.clone() } else { own };
        let (registry, name) = (Arc::clone(&registry), fname(&format!("f{}", i % 4)));
        tasks.push(tokio::spawn(async move {
            registry.deploy(DeployRequest { archive, name, settings: Settings::default() }).await
        }));
    }
    let collector = {
        let r = Arc::clone(&registry);
        std::thread::spawn(move || {
            for _ in 0..50 {
                r.collect_garbage(&HashSet::new()).unwrap();
            }
        })
    };
    let mut revisions = HashSet::new();
    for task in tasks {
        assert!(revisions.insert(task.await.unwrap().unwrap().revision));
    }
    collector.join().unwrap();
    assert_eq!((registry.list().len(), revisions.len()), (4, 24));
    registry.collect_garbage(&HashSet::new()).unwrap();
    for version in registry.list() {
        assert!(registry.code_dir().join(version.code.as_str()).join("index.js").is_file());
    }
    assert!(home.names("tmp").is_empty());
}

#[tokio::test]
async fn a_caller_that_stops_waiting_does_not_stop_the_change() {
    let home = Home::new();
    let registry = home.open().unwrap();
    let mut changes = registry.subscribe();
    let mut deploy = Box::pin(registry.deploy(home.request("f", HELLO)));
    let _ = tokio::time::timeout(std::time::Duration::from_micros(1), &mut deploy).await;
    drop(deploy);
    if tokio::time::timeout(std::time::Duration::from_secs(5), changes.recv()).await.is_ok() {
        assert!(registry.resolve(&fname("f")).is_some());
    }
    registry.deploy(home.request("f", HELLO)).await.unwrap();
}

#[tokio::test]
async fn leftovers_of_a_killed_server_are_cleared() {
    let home = Home::new();
    drop(home.open().unwrap());
    std::fs::create_dir_all(home.data().join("tmp/abc/deep")).unwrap();
    std::fs::write(home.data().join("tmp/abc/deep/f"), "x").unwrap();
    std::fs::write(home.data().join("tmp/draft"), "x").unwrap();
    // a manifest without its tree, and a tree that no row refers to
    std::fs::write(home.data().join("code.meta").join(format!("{}.json", "a".repeat(64))), "{}").unwrap();
    let registry = home.open().unwrap();
    for _ in 0..200 {
        if home.names("tmp").is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(home.names("tmp").is_empty());
    registry.collect_garbage(&HashSet::new()).unwrap();
    assert!(home.names("code.meta").is_empty());
}

#[test]
fn one_server_per_directory() {
    let home = Home::new();
    let first = home.open().unwrap();
    assert!(home.open().unwrap_err().message.contains("another Offshoot server"));
    drop(first);
    home.open().unwrap();
}

#[tokio::test]
async fn a_lost_store_does_not_make_garbage_of_the_code() {
    let home = Home::new();
    let registry = home.open().unwrap();
    registry.deploy(home.request("f", HELLO)).await.unwrap();
    drop(registry);
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        let _ = std::fs::remove_file(home.data().join(name));
    }
    for _ in 0..2 {
        let error = home.open().unwrap_err();
        assert!(error.kind == ErrorKind::Store && error.message.contains("deployed code is there"), "{error}");
    }
    assert_eq!(home.names("code").len(), 1);
}

/// Every page of a small store, zeroed, and a bit of every 61st byte, flipped: refused, or nothing that runs has changed.
#[tokio::test]
async fn damage_to_the_store_is_noticed() {
    let home = Home::new();
    let registry = home.open().unwrap();
    let before = format!("{:?}", registry.deploy(home.request("f", HELLO)).await.unwrap().config);
    drop(registry);
    let path = home.data().join("registry.db");
    let good = std::fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..good.len())
        .step_by(4096)
        .map(|at| {
            let mut b = good.clone();
            b[at..at + 4096].fill(0);
            b
        })
        .collect();
    damaged.extend((0..good.len()).step_by(61).map(|at| {
        let mut b = good.clone();
        b[at] ^= 0x10;
        b
    }));
    damaged.push(good[..good.len() - 4096].to_vec());
    damaged.push(b"this is not a database".repeat(400));
    let mut refused = 0;
    for bytes in damaged {
        for side in ["registry.db-wal", "registry.db-shm"] {
            let _ = std::fs::remove_file(home.data().join(side));
        }
        std::fs::write(&path, &bytes).unwrap();
        match home.open() {
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Store, "{error}");
                refused += 1;
            }
            Ok(registry) => {
                let now: Vec<String> = registry.list().iter().map(|v| format!("{:?}", v.config)).collect();
                assert_eq!(now, std::slice::from_ref(&before));
            }
        }
    }
    assert!(refused > 5, "{refused}");
}
