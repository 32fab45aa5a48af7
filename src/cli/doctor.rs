//! `offshoot doctor`: what this machine can do, why not where it cannot, and how to mend it.
//!
//! It looks and never changes anything but for one empty file that it makes and removes again to see whether it may write.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::client::{Call, Client, block_on};
use super::error::{CliError, Exit};
use super::term::printable;
use super::trial;
use crate::config::{ClientConfig, Loaded, ServeFlags, ServerUrl, load};

/// Checks what this machine can do.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    flags: ServeFlags,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What it belongs to: machine, languages, sandbox, clone methods, cgroups, server.
    pub area: &'static str,
    /// What it is.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found; for a `no`, the reason.
    pub detail: String,
    /// What to do about a `no`.
    pub remedy: Option<String>,
    /// Whether nothing can be served without it.
    pub required: bool,
    /// Whether a `no` is no loss: nothing needs to be done about it.
    #[serde(skip)]
    harmless: bool,
}

impl Row {
    pub(super) fn new(area: &'static str, name: &str, ok: bool, detail: impl Into<String>) -> Self {
        Row { area, name: name.to_owned(), ok, detail: detail.into(), remedy: None, required: false, harmless: false }
    }
    pub(super) fn required(mut self) -> Self {
        self.required = true;
        self
    }
    pub(super) fn harmless(mut self) -> Self {
        self.harmless = true;
        self.remedy("nothing needs to be done: it is not used")
    }
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Prints the table; 0 when serving is possible.
pub fn run(args: Args, context: &Context) -> Result<Exit, CliError> {
    let loaded = load(&context.env, &args.flags.0)?;
    let rows = gather(&loaded);
    let able = rows.iter().all(|row| row.ok || !row.required);
    if context.term.json() {
        context.term.document(&json!({"able": able, "checks": rows}))?;
    } else {
        lines(&rows).iter().try_for_each(|line| context.term.line(line))?;
        let missing = rows.iter().filter(|row| !row.ok && !row.harmless).count();
        context.term.line("")?;
        context.term.line(&verdict(able, missing))?;
    }
    Ok(if able { Exit::Ok } else { Exit::Config })
}

/// Every row of the table: each area has one function that gathers its rows, and this is where they meet.
fn gather(loaded: &Loaded) -> Vec<Row> {
    let mut rows = vec![kernel(), user()];
    rows.extend(cgroups(loaded.serve.cgroup_root.as_deref()));
    rows.extend(sandbox());
    rows.extend(trial::rows(loaded));
    rows.extend([data_dir(&loaded.serve.data_dir), address(loaded), token(loaded)]);
    rows
}

fn verdict(able: bool, missing: usize) -> String {
    match (able, missing) {
        (true, 0) => "everything is in order: offshoot serve".to_owned(),
        (true, n) => format!("this machine can serve; {n} of the above could be better"),
        (false, _) => "this machine cannot serve yet: mend what is marked NO first".to_owned(),
    }
}

fn lines(rows: &[Row]) -> Vec<String> {
    let width = |text: fn(&Row) -> &str| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
    let (area, name) = (width(|row| row.area), width(|row| &row.name));
    let mut lines = Vec::new();
    for row in rows {
        let sign = match (row.ok, row.required) {
            (true, _) => "yes",
            (false, false) => "no ",
            (false, true) => "NO ",
        };
        lines.push(format!("{:<area$}  {:<name$}  {sign}  {}", row.area, row.name, row.detail));
        if let Some(remedy) = row.remedy.as_ref().filter(|_| !row.ok) {
            lines.push(format!("{:<area$}  {:<name$}       → {remedy}", "", ""));
        }
    }
    lines
}

// ── The machine ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Linux 5.14 is the first with everything that a box needs: pidfds, Landlock and `cgroup.kill`.
fn kernel() -> Row {
    let release = read("/proc/sys/kernel/osrelease");
    let ok = release.as_deref().and_then(version).is_some_and(|version| version >= (5, 14));
    let detail =
        release.map_or("not Linux".to_owned(), |release| format!("Linux {release} on {}", std::env::consts::ARCH));
    Row::new("machine", "kernel", ok, detail).remedy("update to Linux 5.14 or later (pidfds, Landlock, cgroup.kill)")
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn user() -> Row {
    let status = read("/proc/self/status").unwrap_or_default();
    match effective_uid(&status) {
        Some(0) => Row::new("machine", "user", true, "root: each instance gets a user id of its own"),
        Some(uid) => {
            Row::new("machine", "user", false, format!("user id {uid}: instances cannot get user ids of their own"))
                .remedy("run the server as root (instances never are), or accept it with --allow-degraded uid")
        }
        None => Row::new("machine", "user", false, "/proc/self/status cannot be read").remedy("mount /proc"),
    }
}

fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

// ── The sandbox ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Every feature is tried for real, in a process of its own with one thread.
fn sandbox() -> Vec<Row> {
    let failed = |why: String| {
        vec![Row::new("sandbox", "probe", false, why).remedy("start offshoot from a place where it may execute itself")]
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(format!("this program cannot find itself: {error}")),
    };
    let output = match std::process::Command::new(program).arg("__probe").output() {
        Ok(output) => output,
        Err(error) => return failed(format!("the probe cannot be started: {error}")),
    };
    let features: Vec<offshoot_jail::probe::Feature> = match serde_json::from_slice(&output.stdout) {
        Ok(features) => features,
        Err(_) => return failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    };
    let row = |feature: offshoot_jail::probe::Feature| {
        let detail = if feature.available && feature.reason.is_empty() { "works".to_owned() } else { feature.reason };
        let row = Row::new("sandbox", &feature.name, feature.available, detail).remedy(feature.remedy);
        if feature.required { row.required() } else { row }
    };
    features.into_iter().map(row).collect()
}

// ── cgroups ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Where the server would look, in its order: its own place in the version 2 tree, the root of that tree, version 1 hierarchies.
/// A version 2 place is taken when it offers all three.
fn cgroups(root: Option<&Path>) -> Vec<Row> {
    let mounts = read("/proc/self/mountinfo").unwrap_or_default();
    let places = match root {
        Some(root) => vec![root.to_owned()],
        None => cgroup2_mount(&mounts).map_or(Vec::new(), |top| own_cgroup(&top).into_iter().chain([top]).collect()),
    };
    let offers = |dir: &PathBuf| {
        let offered = read(dir.join("cgroup.controllers")).unwrap_or_default();
        CONTROLLERS.iter().all(|name| offered.split_whitespace().any(|c| c == *name))
    };
    let tree = places.into_iter().find(offers);
    let find = |name: &str| match &tree {
        Some(dir) => Some((2, dir.clone())),
        None => cgroup1_mount(&mounts, name).map(|dir| (1, dir)),
    };
    CONTROLLERS.into_iter().map(|name| controller(name, find(name))).collect()
}

fn controller(name: &str, found: Option<(u8, PathBuf)>) -> Row {
    let Some((version, dir)) = found else {
        return Row::new("cgroups", name, false, "no control group offers it: this limit has no effect").remedy(
            "start the server as a systemd service with Delegate=yes, name another cgroup with --cgroup-root, or accept it with --allow-degraded cgroup",
        );
    };
    let writable = may_write_file(&dir.join("cgroup.procs"));
    let denied = if writable { "" } else { ", but not writable for this user" };
    Row::new("cgroups", name, writable, format!("version {version} at {}{denied}", dir.display())).remedy(
        "start the server as root or as a systemd service with Delegate=yes, or accept it with --allow-degraded cgroup",
    )
}

/// Where the cgroup2 file system is mounted (`proc_pid_mountinfo(5)`).
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mounts(mountinfo).find(|(kind, ..)| *kind == "cgroup2").map(|(_, dir, _)| PathBuf::from(dir))
}

/// Where the version 1 hierarchy with this controller is mounted: its options name it.
fn cgroup1_mount(mountinfo: &str, controller: &str) -> Option<PathBuf> {
    let has = |options: &str| options.split(',').any(|option| option == controller);
    mounts(mountinfo).find(|(kind, _, options)| *kind == "cgroup" && has(options)).map(|(_, dir, _)| PathBuf::from(dir))
}

/// Each mount's file system, place and own options.
fn mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        Some((after.next()?, before.split(' ').nth(4)?, after.nth(1)?))
    })
}

fn own_cgroup(mount: &Path) -> Option<PathBuf> {
    let own = read("/proc/self/cgroup")?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount.join(path)).filter(|dir| !path.is_empty() && dir.is_dir())
}

// ── The server ───────────────────────────────────────────────────────────────────────────────────────────────────────

fn data_dir(dir: &Path) -> Row {
    let existing = dir.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let row = match may_make_file(existing) {
        Ok(()) if existing == dir => Row::new("server", "data directory", true, dir.display().to_string()),
        Ok(()) => Row::new("server", "data directory", true, format!("{} will be made", dir.display())),
        Err(e) => Row::new("server", "data directory", false, format!("cannot write in {}: {e}", existing.display())),
    };
    row.required().remedy("make it writable for this user, or choose another with --data-dir")
}

fn address(loaded: &Loaded) -> Row {
    let listen = loaded.serve.listen;
    let Err(error) = TcpListener::bind(listen) else {
        return Row::new("server", "address", true, format!("{listen} is free")).required();
    };
    let row = |ok, detail: String| Row::new("server", "address", ok, detail).required();
    let remedy = "stop what is listening there, or choose another port with --port";
    if error.kind() != std::io::ErrorKind::AddrInUse {
        let why = super::client::plain(&error);
        return row(false, format!("{listen} cannot be listened on: {why}"))
            .remedy("choose another address with --listen");
    }
    let client = Client::new(ClientConfig { server: ServerUrl::of_listener(listen), ..loaded.client.clone() });
    match block_on(async { Ok(who_answers(&client).await) }) {
        Ok(Neighbour::Offshoot(version)) => row(true, format!("offshoot {version} is running on {listen}")),
        Ok(Neighbour::Closed) => row(
            true,
            format!("an offshoot server is running on {listen}; it tells its version only to who has its token"),
        ),
        Ok(Neighbour::Stranger) => row(false, format!("another program answers on {listen}")).remedy(remedy),
        Ok(Neighbour::Silent) | Err(_) => {
            row(false, format!("{listen} is taken, and what has it does not answer")).remedy(remedy)
        }
    }
}

/// What has the port.
#[derive(Debug, PartialEq, Eq)]
enum Neighbour {
    /// A server of ours, of this version.
    Offshoot(String),
    /// A server of ours that wants another token, or one.
    Closed,
    /// Something that answers otherwise.
    Stranger,
    /// Something that does not answer.
    Silent,
}

/// How long a neighbour has to answer.
const NEIGHBOUR: Duration = Duration::from_secs(3);

/// Asks for the metrics: they name the build, and another program's do not.
async fn who_answers(client: &Client) -> Neighbour {
    let version = |body: &[u8]| {
        let text = String::from_utf8_lossy(body);
        let (_, rest) = text.split_once("offshoot_build_info{version=\"")?;
        rest.split_once('"').map(|(version, _)| printable(version, false))
    };
    match tokio::time::timeout(NEIGHBOUR, client.send(Call::new(Method::GET, "/metrics"))).await {
        Ok(Ok(answer)) => version(&answer.body).map_or(Neighbour::Stranger, Neighbour::Offshoot),
        Ok(Err(_)) => without_token(client).await,
        Err(_) => Neighbour::Silent,
    }
}

/// A server of ours that refuses names the kind of its refusal where its own clients ask.
async fn without_token(client: &Client) -> Neighbour {
    match tokio::time::timeout(NEIGHBOUR, client.send(Call::new(Method::GET, "/v1/functions"))).await {
        Ok(Err(error)) if error.exit == Exit::Unreachable && error.kind == "unauthorized" => Neighbour::Closed,
        Ok(_) => Neighbour::Stranger,
        Err(_) => Neighbour::Silent,
    }
}

fn token(loaded: &Loaded) -> Row {
    match loaded.serve.check() {
        Ok(()) if loaded.serve.token.is_some() => match loaded.serve.remarks().into_iter().next() {
            Some((what, cure)) => Row::new("server", "token", false, what).remedy(cure),
            None => Row::new("server", "token", true, "set").required(),
        },
        Ok(()) => Row::new("server", "token", true, "none, and only this machine can connect").required(),
        Err(error) => {
            Row::new("server", "token", false, error.message).required().remedy(error.hint.unwrap_or_default())
        }
    }
}

// ── Looking ──────────────────────────────────────────────────────────────────────────────────────────────────────────

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Opening for writing changes nothing.
fn may_write_file(path: &Path) -> bool {
    std::fs::OpenOptions::new().append(true).open(path).is_ok()
}

fn may_make_file(dir: &Path) -> std::io::Result<()> {
    let path = dir.join(format!(".offshoot-doctor-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(version("6.8.0-45-generic"), Some((6, 8)));
        assert_eq!(version("5.14-rc1"), Some((5, 14)));
        assert_eq!(version("x"), None);
        assert_eq!(effective_uid("Name:\ta\nUid:\t1000\t0\t1000\t1000\n"), Some(0));
        let info = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n30 23 0:27 / /tmp rw - tmpfs tmpfs rw";
        assert_eq!(cgroup2_mount(info), Some(PathBuf::from("/sys/fs/cgroup")));
        let hybrid = "31 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(cgroup1_mount(hybrid, "cpu"), Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(
            (cgroup1_mount(hybrid, "memory"), cgroup1_mount(info, "rw"), cgroup2_mount(hybrid)),
            (None, None, None)
        );
        assert_eq!(cgroup2_mount("30 23 0:27 / /tmp rw - tmpfs tmpfs rw"), None);
    }

    #[test]
    fn every_no_shows_its_remedy_and_yes_does_not() {
        let rows = [
            Row::new("machine", "kernel", true, "6.8").remedy("update"),
            Row::new("server", "address", false, "taken").required().remedy("choose another"),
        ];
        assert_eq!(
            lines(&rows),
            ["machine  kernel   yes  6.8", "server   address  NO   taken", "                       → choose another"]
        );
    }

    #[test]
    fn only_a_server_of_ours_counts_as_one() {
        use super::super::client::tests::{answer, stub};
        let asked = |status: &str, body: &str| {
            let times = if status == "200 OK" { 1 } else { 2 };
            let (client, server) = stub(vec![answer(status, "", body); times]);
            let who = block_on(async { Ok(who_answers(&client).await) }).unwrap();
            server.join().unwrap();
            who
        };
        let metrics = "# TYPE offshoot_build info\noffshoot_build_info{version=\"9.1.0\"} 1\n# EOF\n";
        assert_eq!(asked("200 OK", metrics), Neighbour::Offshoot("9.1.0".into()));
        assert_eq!(asked("401 Unauthorized", r#"{"error":"a token","kind":"unauthorized"}"#), Neighbour::Closed);
        for (status, body) in
            [("200 OK", r#"{"status":"ok"}"#), ("404 Not Found", "<html>"), ("401 Unauthorized", r#"{"error":"no"}"#)]
        {
            assert_eq!(asked(status, body), Neighbour::Stranger, "{status} {body}");
        }
    }

    #[test]
    fn a_missing_data_directory_is_judged_by_what_exists() {
        let home = tempfile::tempdir().unwrap();
        assert!(data_dir(&home.path().join("a/b/c")).ok);
        assert!(!data_dir(Path::new("/proc/offshoot")).ok);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
