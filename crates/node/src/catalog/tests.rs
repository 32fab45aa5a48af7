//! The catalogue on a real registry.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use offshoot_model::{Convention, Limits, RuntimeName};

use super::policy::Permission;
use super::types::{EventInvoke, UrlConfig};
use super::*;
use crate::registry::{DeployRequest, Settings};
use crate::runtime::{Installed, RuntimeTable};

struct Home {
    dir: tempfile::TempDir,
}

type Open = (Arc<Catalog>, mpsc::UnboundedReceiver<Made>);

impl Home {
    fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap() }
    }
    fn open(&self) -> Open {
        let entry = |n: &str| Installed {
            name: RuntimeName::parse(n).unwrap(),
            version: "1.2.3".into(),
            executable: "/usr/bin/true".into(),
            prefix: None,
        };
        let table = RuntimeTable::of(vec![entry("nodejs20.x"), entry("python3.11")], false);
        let registry = Registry::open(&self.dir.path().join("data"), Limits::default(), table).unwrap();
        Catalog::new(registry, Place::default())
    }
    fn zip(&self, files: &[(&str, &str)]) -> PathBuf {
        let path = self.dir.path().join(format!("{}.zip", random_uuid().unwrap()));
        let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, text) in files {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        path
    }
    fn code(&self, text: &str) -> Code {
        Code { archive: self.zip(&[("index.js", text)]), architecture: None }
    }
    fn function(&self, name: &str, text: &str) -> NewFunction {
        let patch = Patch {
            runtime: Some("nodejs20.x".into()),
            handler: Some("index.handler".into()),
            role: Some("arn:aws:iam::000000000000:role/r".into()),
            ..Patch::default()
        };
        NewFunction {
            name: fname(name),
            patch,
            code: self.code(text),
            tags: BTreeMap::new(),
            publish: false,
            signing: None,
        }
    }
}

fn fname(text: &str) -> FunctionName {
    FunctionName::parse(text).unwrap()
}

/// Says that everything that waits is ready.
fn settle((catalog, queue): &mut Open) {
    while let Ok(made) = queue.try_recv() {
        catalog.settled(&made, None);
    }
}

fn rule(fault: Fault) -> Rule {
    match fault {
        Fault::Rule(rule, _) => rule,
        Fault::Platform(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn a_function_is_pending_until_it_is_ready_and_takes_no_change_meanwhile() {
    let home = Home::new();
    let mut open = home.open();
    let catalog = open.0.clone();
    let made = catalog.create(home.function("f", "1")).await.unwrap();
    assert!(matches!(made.progress, Some(Progress::Creating(_))));
    assert_eq!(made.version.config.convention, Convention::Event);
    let again = catalog.update_configuration(&fname("f"), Patch::default(), None).await.unwrap_err();
    assert_eq!(rule(again), Rule::Conflict);
    assert_eq!(rule(catalog.create(home.function("f", "1")).await.unwrap_err()), Rule::Conflict);
    settle(&mut open);
    assert_eq!(catalog.get(&fname("f"), None).unwrap().progress, None);
    let patch = Patch { memory: Some(512), ..Patch::default() };
    let ready = catalog.get(&fname("f"), None).unwrap().revision_id;
    let changed = catalog.update_configuration(&fname("f"), patch, Some(ready)).await.unwrap();
    assert_ne!(changed.revision_id, made.revision_id);
    assert!(matches!(changed.progress, Some(Progress::Updating(_))));
    let Ok(update) = open.1.try_recv() else { panic!("nothing to make ready") };
    catalog.settled(&update, Some("no".into()));
    assert!(matches!(catalog.get(&fname("f"), None).unwrap().progress, Some(Progress::Failed(_, why)) if why == "no"));
    let stale = catalog.update_configuration(&fname("f"), Patch::default(), Some(made.revision_id)).await.unwrap_err();
    assert_eq!(rule(stale), Rule::Precondition);
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let home = Home::new();
    let name = fname("f");
    let before = {
        let mut open = home.open();
        let catalog = open.0.clone();
        let layer = |n: &str| NewLayer {
            name: n.to_owned(),
            description: "d".into(),
            archive: home.zip(&[("python/m.py", n)]),
            compatible_runtimes: Some(vec!["python3.11".into()]),
            compatible_architectures: Some(vec![]),
            license_info: None,
        };
        catalog.publish_layer(layer("a")).await.unwrap();
        catalog.publish_layer(layer("b")).await.unwrap();
        let mut new = home.function("f", "1");
        new.patch.layers = Some(vec![catalog.layer_version_arn("a", 1), catalog.layer_version_arn("b", 1)]);
        new.tags = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        catalog.create(new).await.unwrap();
        settle(&mut open);
        catalog.publish(&name, Some("one".into()), None, None).await.unwrap();
        catalog.create_alias(&name, "live".into(), "1".into(), String::new(), BTreeMap::new()).await.unwrap();
        let permission =
            Permission { sid: "s".into(), action: "lambda:*".into(), principal: "*".into(), ..Permission::default() };
        catalog.add_permission(&name, None, permission, None).await.unwrap();
        catalog.create_url(&name, Some("live".into()), "NONE".into(), UrlChange::default()).await.unwrap();
        catalog.reserve(&name, Some(7)).await.unwrap();
        settle(&mut open);
        catalog.provision(&name, "live".into(), 2).await.unwrap();
        let events = EventInvoke { maximum_retry_attempts: Some(1), ..EventInvoke::default() };
        catalog.put_event_invoke(&name, None, events, true).await.unwrap();
        seen(&catalog, &name)
    };
    let open = home.open();
    assert_eq!(seen(&open.0, &name), before);
    let url: UrlConfig = open.0.url(&name, Some("live")).unwrap().config;
    assert_eq!(open.0.url_by_id(&url.id).unwrap().qualifier.as_deref(), Some("live"));
    // The merged layers hold the later file, and are what the published version has.
    let published = open.0.resolve(&name, Some("live"), 0.0).unwrap();
    let opt = published.opt.clone().unwrap();
    let text = std::fs::read_to_string(open.0.registry.code_dir().join(opt.as_str()).join("python/m.py")).unwrap();
    assert_eq!((text.as_str(), published.number), ("b", Some(1)));
    assert_eq!(open.0.all_provisioned()[0].1, 2);
}

fn seen(catalog: &Catalog, name: &FunctionName) -> Vec<String> {
    let entry = catalog.entry(name);
    let view = catalog.get(name, None).unwrap();
    let one = catalog.get(name, Some("1")).unwrap();
    vec![
        format!("{:?}", entry.doc),
        format!("{:?} {:?} {} {}", view.version.config, view.fields, view.revision_id, view.version.revision),
        format!("{:?} {:?} {} {:?}", one.version.config, one.fields, one.revision_id, one.version.opt),
        format!("{:?}", catalog.policy(name, None).unwrap()),
    ]
}

#[tokio::test]
async fn published_versions_keep_their_code_and_layers_and_are_not_made_twice() {
    let home = Home::new();
    let mut open = home.open();
    let catalog = open.0.clone();
    let name = fname("f");
    catalog.create(home.function("f", "1")).await.unwrap();
    settle(&mut open);
    let one = catalog.publish(&name, None, None, None).await.unwrap();
    assert_eq!(catalog.publish(&name, None, None, None).await.unwrap().version.number, Some(1));
    catalog.update_code(&name, home.code("2"), false, false, None).await.unwrap();
    settle(&mut open);
    let registry = catalog.registry.clone();
    registry.collect_garbage(&HashSet::new()).unwrap();
    let kept = registry.code_dir().join(one.version.code.as_str()).join("index.js");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "1");
    assert!(catalog.archive(&one.version.code).is_some());
    assert_eq!(catalog.publish(&name, None, None, None).await.unwrap().version.number, Some(2));
    assert_eq!(rule(catalog.publish(&name, None, Some("x".into()), None).await.unwrap_err()), Rule::Invalid);
    catalog.create_alias(&name, "a".into(), "1".into(), String::new(), BTreeMap::new()).await.unwrap();
    assert_eq!(rule(catalog.delete_version(&name, 1).await.unwrap_err()), Rule::Conflict);
    catalog.delete_alias(&name, "a".into()).await.unwrap();
    catalog.delete_version(&name, 1).await.unwrap();
    assert!(catalog.resolve(&name, Some("1"), 0.0).is_err());
    drop(one);
    assert_eq!(registry.collect_garbage(&HashSet::new()).unwrap(), 1);
    assert!(!kept.exists());
    // The number is not given again.
    catalog.update_code(&name, home.code("3"), false, false, None).await.unwrap();
    settle(&mut open);
    assert_eq!(catalog.publish(&name, None, None, None).await.unwrap().version.number, Some(3));
    registry.delete(&name).await.unwrap();
    registry.collect_garbage(&HashSet::new()).unwrap();
    assert_eq!(std::fs::read_dir(registry.code_dir()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(home.dir.path().join("data/archives")).unwrap().count(), 0);
    // But for the numbers that it must not give again.
    let left = registry.store.documents().unwrap();
    assert!(left.iter().all(|d| d.kind == NUMBERS), "{left:?}");
}

#[tokio::test]
async fn functions_of_other_dialects_are_the_same_functions() {
    let home = Home::new();
    let open = home.open();
    let catalog = open.0.clone();
    let name = fname("web");
    let request = DeployRequest {
        archive: home.zip(&[("index.js", "exports.handler = async () => 1")]),
        name: name.clone(),
        settings: Settings::default(),
    };
    let deployed = catalog.registry.deploy(request).await.unwrap();
    let view = catalog.get(&name, None).unwrap();
    assert_eq!(
        (view.fields.clone(), view.progress, view.code_sha256),
        (Fields::default(), None, deployed.code.clone())
    );
    let published = catalog.publish(&name, None, None, None).await.unwrap();
    assert_eq!(published.version.number, Some(1));
    assert_eq!(catalog.list(None, 10).len(), 1);
    // A redeployment by the other dialect leaves what AWS's dialect has made of it.
    let archive = home.zip(&[("index.js", "exports.handler = async () => 2")]);
    let request = DeployRequest { archive, name: name.clone(), settings: Settings::default() };
    catalog.registry.deploy(request).await.unwrap();
    assert_eq!(catalog.list_versions(&name, None, 10).unwrap().len(), 2);
    assert_eq!(catalog.get(&name, Some("1")).unwrap().version.code, deployed.code);
}

#[tokio::test]
async fn an_archive_with_one_folder_is_unpacked_as_it_is() {
    let home = Home::new();
    let mut open = home.open();
    let archive = || home.zip(&[("src/index.js", "exports.handler = async () => 1")]);
    let zip = archive();
    let same = home.dir.path().join("same.zip");
    std::fs::copy(&zip, &same).unwrap();
    let request = DeployRequest { archive: zip, name: fname("stripped"), settings: Settings::default() };
    let stripped = open.0.registry.deploy(request).await.unwrap();
    let mut new = home.function("plain", "");
    new.code.archive = same.clone();
    new.patch.handler = Some("src/index.handler".into());
    let plain = open.0.create(new).await.unwrap();
    settle(&mut open);
    let dir = open.0.registry.code_dir();
    assert!(dir.join(stripped.code.as_str()).join("index.js").is_file());
    assert!(dir.join(plain.version.code.as_str()).join("src/index.js").is_file());
    assert_eq!(plain.code_sha256, stripped.code, "both are the SHA-256 of the archive");
    assert_eq!(std::fs::read(open.0.archive(&plain.version.code).unwrap()).unwrap(), std::fs::read(&same).unwrap());
}

#[test]
fn an_archive_whose_name_has_gone_is_kept_all_the_same() {
    use crate::registry::archive::Wrapping;
    let home = Home::new();
    let open = home.open();
    let zip = home.zip(&[("index.js", "1")]);
    let bytes = std::fs::read(&zip).unwrap();
    let staged = open.0.registry.code.stage(&zip, Wrapping::Keep).unwrap();
    std::fs::remove_file(&zip).unwrap();
    let digest = staged.digest.clone();
    let _kept = staged.commit().unwrap();
    assert_eq!(std::fs::read(open.0.archive(&digest).unwrap()).unwrap(), bytes);
}

#[tokio::test]
async fn aliases_split_calls_by_weight_and_their_versions_must_be_there() {
    let home = Home::new();
    let mut open = home.open();
    let catalog = open.0.clone();
    let name = fname("f");
    catalog.create(home.function("f", "1")).await.unwrap();
    settle(&mut open);
    catalog.publish(&name, None, None, None).await.unwrap();
    catalog.update_code(&name, home.code("2"), true, false, None).await.unwrap();
    settle(&mut open);
    let weights = |v: &str, w: f64| BTreeMap::from([(v.to_owned(), w)]);
    let made = catalog.create_alias(&name, "live".into(), "1".into(), String::new(), weights("2", 0.25)).await;
    let (_, revision) = made.unwrap();
    let at = |chance: f64| catalog.resolve(&name, Some("live"), chance).unwrap().number;
    assert_eq!((at(0.0), at(0.24), at(0.25), at(1.0)), (Some(2), Some(2), Some(1), Some(1)));
    for (version, weights, wanted) in [
        ("9", BTreeMap::new(), Rule::NotFound),
        ("1", weights("9", 0.1), Rule::NotFound),
        ("1", weights("1", 0.1), Rule::Invalid),
        ("$LATEST", weights("1", 0.1), Rule::Untyped),
        ("1", BTreeMap::from([("2".to_owned(), 0.1), ("3".to_owned(), 0.1)]), Rule::Invalid),
    ] {
        let refused = catalog.create_alias(&name, "x".into(), version.into(), String::new(), weights).await;
        assert_eq!(rule(refused.unwrap_err()), wanted, "{version}");
    }
    let changed =
        catalog.update_alias(&name, "live".into(), Some("2".into()), None, Some(BTreeMap::new()), Some(revision));
    let (alias, second) = changed.await.unwrap();
    assert_eq!((alias.function_version.as_str(), alias.weights.len()), ("2", 0));
    assert_eq!(catalog.alias(&name, "live").unwrap().1, second);
    assert_eq!(rule(catalog.alias(&name, "none").unwrap_err()), Rule::NotFound);
}

#[tokio::test]
async fn settings_hold_to_each_other() {
    let home = Home::new();
    let mut open = home.open();
    let catalog = open.0.clone();
    let name = fname("f");
    catalog.create(home.function("f", "1")).await.unwrap();
    settle(&mut open);
    catalog.publish(&name, None, None, None).await.unwrap();
    catalog.create_alias(&name, "live".into(), "1".into(), String::new(), BTreeMap::new()).await.unwrap();
    assert_eq!(rule(catalog.reserve(&name, Some(901)).await.unwrap_err()), Rule::Untyped, "100 are for everybody");
    catalog.reserve(&name, Some(5)).await.unwrap();
    settle(&mut open);
    assert_eq!(rule(catalog.provision(&name, "1".into(), 6).await.unwrap_err()), Rule::Invalid);
    assert_eq!(rule(catalog.provision(&name, "$LATEST".into(), 1).await.unwrap_err()), Rule::Invalid);
    assert_eq!(rule(catalog.provision(&name, "2".into(), 1).await.unwrap_err()), Rule::NotFound);
    catalog.provision(&name, "1".into(), 3).await.unwrap();
    assert_eq!(rule(catalog.provision(&name, "live".into(), 1).await.unwrap_err()), Rule::Conflict);
    assert_eq!(rule(catalog.reserve(&name, Some(2)).await.unwrap_err()), Rule::Untyped);
    catalog.unprovision(&name, "1".into()).await.unwrap();
    assert_eq!(rule(catalog.provisioned(&name, "1").unwrap_err()), Rule::NoProvisioned);
    let own = catalog.place().function("f", None);
    let to = |arn: &str| EventInvoke {
        destination_config: Some(types::Destinations {
            on_success: types::Destination { destination: Some(arn.to_owned()) },
            ..types::Destinations::default()
        }),
        ..EventInvoke::default()
    };
    for bad in [own.as_str(), "arn:aws:iam::000000000000:role/r", "arn:aws:lambda:us-east-1:000000000000:function:no"] {
        let refused = catalog.put_event_invoke(&name, None, to(bad), true).await.unwrap_err();
        assert_eq!(rule(refused), Rule::Invalid, "{bad}");
    }
    catalog.put_event_invoke(&name, None, to("arn:aws:sqs:us-east-1:000000000000:q"), true).await.unwrap();
    assert!(catalog.event_invoke(&name, Some("$LATEST")).is_ok());
    let tags = (0..51).map(|i| (i.to_string(), String::new())).collect();
    assert_eq!(rule(catalog.tag(&name, tags, Vec::new()).await.unwrap_err()), Rule::Invalid);
    assert!(catalog.get(&name, None).unwrap().tags.is_empty(), "refused as a whole");
}

#[tokio::test]
async fn ten_thousand_functions_are_opened_and_listed_quickly() {
    const MANY: usize = 10_000;
    let home = Home::new();
    {
        let mut open = home.open();
        let made = open.0.create(home.function("model", "1")).await.unwrap();
        settle(&mut open);
        // The rows of the others, as the store would have written them one by one.
        let mut config = made.version.config.clone();
        let entry = open.0.entry(&fname("model"));
        for i in 0..MANY {
            config.name = fname(&format!("f-{i:05}"));
            let draft = Draft {
                config: config.clone(),
                code: made.version.code.clone(),
                code_bytes: 1,
                created_ms: entry.doc.created_ms,
                updated_ms: entry.doc.created_ms,
            };
            open.0.registry.store.put_unsynced(&draft, &[function_document(&config.name, &entry.doc).unwrap()]);
        }
    }
    let began = std::time::Instant::now();
    let open = home.open();
    let opened = began.elapsed();
    let began = std::time::Instant::now();
    let mut after = None;
    let mut seen = 0;
    loop {
        let views = open.0.list(after.as_ref(), 50);
        let Some(last) = views.last() else { break };
        (after, seen) = (Some(last.version.config.name.clone()), seen + views.len());
    }
    let listed = began.elapsed();
    assert_eq!(seen, MANY + 1);
    // Generous for a debug build on a busy machine; what is meant is that neither grows with the square.
    assert!(opened.as_secs() < 10 && listed.as_secs() < 10, "{opened:?} {listed:?}");
}

#[tokio::test]
async fn version_numbers_are_not_given_again_to_a_function_of_the_same_name() {
    let home = Home::new();
    let name = fname("again");
    {
        let mut open = home.open();
        let catalog = open.0.clone();
        catalog.create(home.function("again", "1")).await.unwrap();
        settle(&mut open);
        assert_eq!(catalog.publish(&name, None, None, None).await.unwrap().version.number, Some(1));
        catalog.registry().delete(&name).await.unwrap();
        catalog.create(home.function("again", "2")).await.unwrap();
        settle(&mut open);
        assert_eq!(catalog.publish(&name, None, None, None).await.unwrap().version.number, Some(2));
        catalog.registry().delete(&name).await.unwrap();
    }
    let mut open = home.open();
    let catalog = open.0.clone();
    catalog.create(home.function("again", "3")).await.unwrap();
    settle(&mut open);
    assert_eq!(catalog.publish(&name, None, None, None).await.unwrap().version.number, Some(3));
}

#[tokio::test]
async fn revisions_change_when_a_function_is_ready_tagged_or_published() {
    let home = Home::new();
    let mut open = home.open();
    let catalog = open.0.clone();
    let name = fname("revised");
    let mut seen = vec![catalog.create(home.function("revised", "1")).await.unwrap().revision_id];
    settle(&mut open);
    let now = || catalog.get(&name, None).unwrap().revision_id;
    seen.push(now());
    catalog.tag(&name, BTreeMap::from([("a".into(), "b".into())]), Vec::new()).await.unwrap();
    seen.push(now());
    let published = catalog.publish(&name, None, None, None).await.unwrap().revision_id;
    seen.push(now());
    assert_eq!(catalog.get(&name, Some("1")).unwrap().revision_id, published);
    seen.push(published);
    let different: HashSet<&String> = seen.iter().collect();
    assert_eq!(different.len(), seen.len(), "{seen:?}");
}

#[tokio::test]
async fn a_signing_configuration_that_enforces_lets_no_code_in() {
    let home = Home::new();
    let mut open = home.open();
    let catalog = open.0.clone();
    let change = |policy: &str| SigningChange { policy: Some(policy.into()), ..SigningChange::default() };
    let made = catalog.create_signing(change("Enforce")).await.unwrap();
    let mut new = home.function("signed", "1");
    new.signing = Some(made.id.clone());
    assert!(matches!(catalog.create(new).await, Err(Fault::Rule(Rule::Unsigned, _))));
    catalog.update_signing(made.id.clone(), change("Warn")).await.unwrap();
    let mut new = home.function("signed", "1");
    new.signing = Some(made.id.clone());
    catalog.create(new).await.unwrap();
    settle(&mut open);
    assert_eq!(catalog.signed_by(&made.id, None, 10), [fname("signed")]);
    assert!(matches!(catalog.delete_signing(made.id.clone()).await, Err(Fault::Rule(Rule::Conflict, _))));
    catalog.update_signing(made.id.clone(), change("Enforce")).await.unwrap();
    let code = home.code("2");
    let refused = catalog.update_code(&fname("signed"), code, false, false, None).await;
    assert!(matches!(refused, Err(Fault::Rule(Rule::Unsigned, _))));
    catalog.put_function_signing(&fname("signed"), None).await.unwrap();
    catalog.delete_signing(made.id.clone()).await.unwrap();
    assert!(catalog.signing(&made.id).is_err());
}
