//! Control groups: limits for memory, CPU and processes, the freezer, and what an instance used. Version 1, version 2 and
//! the hybrid of both: each controller is used where the machine has it.
//!
//! Sources: kernel documentation `admin-guide/cgroup-v1/{memory,freezer-subsystem,pids}.rst`, `scheduler/sched-bwc.rst`,
//! `admin-guide/cgroup-v2.rst`. It never moves a process of somebody else, and never writes outside its own directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::SandboxError;

/// The name of our directory in every hierarchy.
const OURS: &str = "offshoot";

/// What one hierarchy gives us, and where our directory in it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    /// One directory for all controllers.
    V2(PathBuf),
    /// A directory for each controller.
    V1 { memory: Option<PathBuf>, cpu: Option<PathBuf>, pids: Option<PathBuf>, freezer: Option<PathBuf> },
}

/// The groups of one server: a directory of its own below the place that the machine allows.
#[derive(Debug, Clone)]
pub struct Cgroups {
    tree: Tree,
}

/// What a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Memory, in bytes.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u32,
}

/// The scheduler's accounting period: short, so that a small share of a core means short waits, as on AWS Lambda.
const CPU_PERIOD_US: u64 = 20_000;

/// What this machine lacks, with the way to mend it; empty when everything is there.
pub type Missing = Vec<(&'static str, String)>;

impl Cgroups {
    /// Finds the hierarchies and makes this server's directory in each. `server` names the directory; what a server of
    /// the same name left behind is killed and removed first. `root` overrides where a pure version 2 tree is looked for.
    pub fn open(server: &str, root: Option<&Path>) -> Result<(Self, Missing), SandboxError> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(SandboxError::io("read the list of mounts"))?;
        let tree = match root {
            Some(root) => open_v2(root, server)?,
            None => find(&mounts, server)?,
        };
        let Some(tree) = tree else {
            let cure = "run as root, or under systemd with Delegate=yes, or name a delegated directory in cgroup_root";
            let place =
                root.map_or("here".to_owned(), |root| format!("in {} (cgroup_root){}", root.display(), unfit(root)));
            return Ok((
                Cgroups { tree: Tree::V1 { memory: None, cpu: None, pids: None, freezer: None } },
                vec![("cgroup", format!("no control group can be made {place}: {cure}"))],
            ));
        };
        tree.weigh();
        let mut missing = Missing::new();
        if let Tree::V1 { memory, cpu, pids, freezer } = &tree {
            for (name, there) in [("memory", memory), ("cpu", cpu), ("pids", pids), ("freezer", freezer)] {
                if there.is_none() {
                    missing.push(("cgroup", format!("the {name} controller is not mounted or not writable")));
                }
            }
        }
        Ok((Cgroups { tree }, missing))
    }

    /// Why limits on memory and processes cannot hold here; `None`: they can. Looks by making groups, which it removes.
    pub fn lacking(root: Option<&Path>) -> Option<String> {
        match Self::open(&format!("look-{}", std::process::id()), root) {
            Err(error) => Some(error.to_string()),
            Ok((groups, missing)) => {
                let able = groups.limits();
                groups.remove_all();
                (!able).then(|| missing.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; "))
            }
        }
    }

    /// Whether limits on memory and processes hold here.
    pub fn limits(&self) -> bool {
        match &self.tree {
            Tree::V2(_) => true,
            Tree::V1 { memory, pids, .. } => memory.is_some() && pids.is_some(),
        }
    }

    /// One line for people: which version.
    pub fn describe(&self) -> String {
        match &self.tree {
            Tree::V2(_) => "version 2".into(),
            Tree::V1 { memory, cpu, pids, freezer } => {
                let have = [("memory", memory), ("cpu", cpu), ("pids", pids), ("freezer", freezer)];
                let names: Vec<_> = have.iter().filter(|(_, p)| p.is_some()).map(|(n, _)| *n).collect();
                if names.is_empty() { "none".into() } else { format!("version 1 ({})", names.join(", ")) }
            }
        }
    }

    /// Makes a group. Blocks on the file system for a fraction of a millisecond.
    pub fn create(&self, name: &str, limits: GroupLimits) -> Result<Group, SandboxError> {
        let group = Group { tree: self.tree.child(name), freezable: self.freezable() };
        let made = match group.make(limits) {
            // Somebody cleared our directory away (another server that was given the same data directory, or a person).
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.tree.dirs().into_iter().try_for_each(fs::create_dir_all).and_then(|()| group.make(limits))
            }
            other => other,
        };
        made.map_err(SandboxError::io("make a control group"))?;
        Ok(group)
    }

    fn freezable(&self) -> bool {
        match &self.tree {
            Tree::V2(_) => true,
            Tree::V1 { freezer, .. } => freezer.is_some(),
        }
    }

    /// Memory that all groups use together, in bytes, without cached files, which the kernel takes back by itself; `None`
    /// when the machine cannot tell.
    pub fn memory_used(&self) -> Option<u64> {
        let (used, stat, cached) = match &self.tree {
            Tree::V2(dir) => {
                (number(&dir.join("memory.current"))?, dir.join("memory.stat"), ["inactive_file ", "active_file "])
            }
            Tree::V1 { memory, .. } => {
                let dir = memory.as_ref()?;
                let names = ["total_inactive_file ", "total_active_file "];
                (number(&dir.join("memory.usage_in_bytes"))?, dir.join("memory.stat"), names)
            }
        };
        let stat = fs::read_to_string(stat).unwrap_or_default();
        let value =
            |name: &str| stat.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or(0);
        Some(used.saturating_sub(cached.iter().map(|name| value(name)).sum()))
    }

    /// The directory of our version 1 freezer groups, whose frozen processes cannot be killed.
    pub fn freezer(&self) -> Option<&Path> {
        match &self.tree {
            Tree::V1 { freezer, .. } => freezer.as_deref(),
            Tree::V2(_) => None,
        }
    }

    /// Lets everything go on that lies frozen, so that it can die.
    pub fn thaw_all(&self) {
        let groups = self.freezer().and_then(|dir| fs::read_dir(dir).ok());
        for group in groups.into_iter().flatten().flatten() {
            fs::write(group.path().join("freezer.state"), "THAWED").ok();
        }
    }

    /// How many groups exist now.
    pub fn count(&self) -> usize {
        let dirs = self.tree.dirs();
        let Some(dir) = dirs.first() else { return 0 };
        fs::read_dir(dir).map(|d| d.flatten().filter(|e| e.path().is_dir()).count()).unwrap_or(0)
    }

    /// Removes this server's own directories; what still lives in them is killed.
    pub fn remove_all(&self) {
        for dir in self.tree.dirs() {
            sweep(dir);
        }
    }
}

impl Tree {
    fn child(&self, name: &str) -> Tree {
        let sub = |p: &Option<PathBuf>| p.as_ref().map(|p| p.join(name));
        match self {
            Tree::V2(dir) => Tree::V2(dir.join(name)),
            Tree::V1 { memory, cpu, pids, freezer } => {
                Tree::V1 { memory: sub(memory), cpu: sub(cpu), pids: sub(pids), freezer: sub(freezer) }
            }
        }
    }

    /// All instances together weigh as much against the rest of the machine as one busy process per core would. A hint: a
    /// machine that does not take it serves all the same.
    fn weigh(&self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (dir, file, one) = match self {
            Tree::V2(dir) => (dir, "cpu.weight", 100),
            Tree::V1 { cpu: Some(dir), .. } => (dir, "cpu.shares", 1024),
            Tree::V1 { .. } => return,
        };
        for dir in dir.ancestors().take(2) {
            fs::write(dir.join(file), (one * cores).min(10_000.max(one)).to_string()).ok();
        }
    }

    fn dirs(&self) -> Vec<&Path> {
        match self {
            Tree::V2(dir) => vec![dir],
            Tree::V1 { memory, cpu, pids, freezer } => {
                [memory, cpu, pids, freezer].into_iter().flatten().map(PathBuf::as_path).collect()
            }
        }
    }
}

/// Chooses the tree: a version 2 tree whose controllers we may use, else version 1 hierarchies.
fn find(mounts: &str, server: &str) -> Result<Option<Tree>, SandboxError> {
    let mut v2 = None;
    let mut v1: Vec<(&str, PathBuf)> = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(_), Some(dir), Some(kind), Some(options)) = (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        match kind {
            "cgroup2" => v2 = Some(PathBuf::from(dir)),
            "cgroup" => v1.extend(options.split(',').map(|o| (o, PathBuf::from(dir)))),
            _ => {}
        }
    }
    if let Some(root) = v2 {
        // A delegated unit works below itself. In the scope of a login session, where a person or `sudo` starts us, controllers
        // cannot be handed down (the shell lives there too): root then works below the root of the tree, as container engines do.
        for parent in own_v2_dir(&root).into_iter().filter(|own| *own != root).chain([root.clone()]) {
            if let Some(tree) = open_v2(&parent, server)? {
                return Ok(Some(tree));
            }
        }
    }
    let make = |controller: &str| -> Option<PathBuf> {
        let (_, dir) = v1.iter().find(|(name, _)| *name == controller)?;
        let own = dir.join(OURS).join(server);
        sweep(&own);
        fs::create_dir_all(&own).ok()?;
        Some(own)
    };
    // First what may lie frozen: until it is thawed it cannot die, and the other groups cannot be emptied.
    let freezer = make("freezer");
    let tree = Tree::V1 { freezer, memory: make("memory"), cpu: make("cpu"), pids: make("pids") };
    if tree.dirs().is_empty() { Ok(None) } else { Ok(Some(tree)) }
}

/// Our own position in the version 2 tree: a delegated unit may only work below it.
fn own_v2_dir(root: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(root.join(path.trim_start_matches('/')))
}

/// What is wrong with a place that somebody named, as far as it shows from outside.
fn unfit(root: &Path) -> &'static str {
    if !root.exists() {
        ", which does not exist"
    } else if !root.join("cgroup.controllers").exists() {
        ", which is no directory of a version 2 tree"
    } else {
        ""
    }
}

/// Prepares `<parent>/offshoot/<server>` with the controllers we need switched on all the way; `None` when the tree does
/// not offer them to us.
fn open_v2(parent: &Path, server: &str) -> Result<Option<Tree>, SandboxError> {
    let offered = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    if !["memory", "pids", "cpu"].iter().all(|need| offered.split_whitespace().any(|have| have == *need)) {
        return Ok(None);
    }
    // Processes may not live in a group that hands controllers down (the "no internal processes" rule): in a delegated
    // unit, step down into a leaf first.
    let leaf = parent.join("offshoot.server");
    if fs::write(parent.join("cgroup.subtree_control"), "+memory +pids +cpu").is_err() {
        let moved = fs::create_dir_all(&leaf).is_ok() && fs::write(leaf.join("cgroup.procs"), "0").is_ok();
        if !moved || fs::write(parent.join("cgroup.subtree_control"), "+memory +pids +cpu").is_err() {
            // Somebody else lives there: back to where we were.
            if moved {
                fs::write(parent.join("cgroup.procs"), "0").ok();
            }
            fs::remove_dir(&leaf).ok();
            return Ok(None);
        }
    }
    let ours = parent.join(OURS);
    let own = ours.join(server);
    sweep(&own);
    if fs::create_dir_all(&own).is_err() {
        return Ok(None);
    }
    for dir in [&ours, &own] {
        if fs::write(dir.join("cgroup.subtree_control"), "+memory +pids +cpu").is_err() {
            return Ok(None);
        }
    }
    Ok(Some(Tree::V2(own)))
}

/// Kills whatever lives below a directory of ours and removes it. Used at start, for what a killed server left.
fn sweep(dir: &Path) {
    let Ok(children) = fs::read_dir(dir) else { return };
    for child in children.flatten().filter(|c| c.path().is_dir()) {
        sweep(&child.path());
    }
    for _ in 0..200 {
        fs::write(dir.join("freezer.state"), "THAWED").ok();
        fs::write(dir.join("cgroup.freeze"), "0").ok();
        if fs::write(dir.join("cgroup.kill"), "1").is_err() {
            for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
        }
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
    tracing::warn!(dir = %dir.display(), "a control group could not be emptied");
}

/// One instance's group. Removed with `remove` once its processes are gone.
#[derive(Debug)]
pub struct Group {
    tree: Tree,
    freezable: bool,
}

impl Group {
    fn make(&self, limits: GroupLimits) -> io::Result<()> {
        for dir in self.tree.dirs() {
            if let Err(error) = fs::create_dir(dir) {
                for made in self.tree.dirs() {
                    fs::remove_dir(made).ok();
                }
                return Err(error);
            }
        }
        let done = self.limit(limits);
        if done.is_err() {
            self.remove();
        }
        done
    }

    /// Sets the limits, also again.
    pub fn limit(&self, limits: GroupLimits) -> io::Result<()> {
        let memory = limits.memory.to_string();
        let pids = limits.pids.to_string();
        match &self.tree {
            Tree::V2(dir) => {
                put(&dir.join("memory.max"), &memory)?;
                fs::write(dir.join("memory.swap.max"), "0").ok();
                fs::write(dir.join("memory.oom.group"), "1").ok();
                put(&dir.join("pids.max"), &pids)?;
            }
            Tree::V1 { memory: m, pids: p, .. } => {
                if let Some(dir) = m {
                    // Memory alone may never exceed memory with swap: a higher limit has to be set in the other order.
                    // Swap accounting may be off; then there is no second file, and nothing to limit.
                    let (alone, with_swap) =
                        (dir.join("memory.limit_in_bytes"), dir.join("memory.memsw.limit_in_bytes"));
                    if put(&alone, &memory).is_err() {
                        fs::write(&with_swap, &memory).ok();
                        put(&alone, &memory)?;
                    }
                    fs::write(&with_swap, &memory).ok();
                }
                if let Some(dir) = p {
                    put(&dir.join("pids.max"), &pids)?;
                }
            }
        }
        Ok(())
    }

    /// Limits the CPU to so many thousandths of a core, and gives the group a weight to match for when there is not enough
    /// for everyone. A group that was just made has no limit.
    pub fn set_cpu(&self, millis: u64) -> io::Result<()> {
        let quota = (millis * CPU_PERIOD_US / 1000).max(1000).to_string();
        match &self.tree {
            Tree::V2(dir) => {
                put(&dir.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))?;
                fs::write(dir.join("cpu.max.burst"), &quota).ok();
                put(&dir.join("cpu.weight"), &(millis / 10).clamp(1, 10_000).to_string())
            }
            Tree::V1 { cpu: Some(dir), .. } => {
                put(&dir.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
                put(&dir.join("cpu.cfs_quota_us"), &quota)?;
                fs::write(dir.join("cpu.cfs_burst_us"), &quota).ok();
                put(&dir.join("cpu.shares"), &(millis * 1024 / 1000).max(2).to_string())
            }
            Tree::V1 { .. } => Ok(()),
        }
    }

    /// Open files: a process with one thread that writes `0` to each of them joins the group.
    ///
    /// In version 1 that file is `tasks`: a thread that moves itself needs no machine-wide lock, whereas moving a process
    /// through `cgroup.procs` waits for a grace period of the whole machine (kernel/cgroup, `cgroup_procs_write_start`).
    pub fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let file = match &self.tree {
            Tree::V1 { .. } => "tasks",
            Tree::V2(_) => "cgroup.procs",
        };
        self.tree.dirs().into_iter().map(|dir| Ok(File::options().write(true).open(dir.join(file))?.into())).collect()
    }

    /// Highest memory use so far, in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        match &self.tree {
            Tree::V2(dir) => number(&dir.join("memory.peak")).or_else(|| number(&dir.join("memory.current"))),
            Tree::V1 { memory, .. } => memory.as_ref().and_then(|dir| number(&dir.join("memory.max_usage_in_bytes"))),
        }
    }

    /// An open file from which the peak can be read again and again.
    pub fn peak_file(&self) -> Option<File> {
        let file = match &self.tree {
            Tree::V2(dir) => dir.join("memory.peak"),
            Tree::V1 { memory, .. } => memory.as_ref()?.join("memory.max_usage_in_bytes"),
        };
        File::open(file).ok()
    }

    /// Memory in use now, in bytes.
    pub fn memory_used(&self) -> Option<u64> {
        match &self.tree {
            Tree::V2(dir) => number(&dir.join("memory.current")),
            Tree::V1 { memory, .. } => memory.as_ref().and_then(|dir| number(&dir.join("memory.usage_in_bytes"))),
        }
    }

    /// How often the kernel killed something in this group for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let (file, key) = match &self.tree {
            Tree::V2(dir) => (dir.join("memory.events"), "oom_kill "),
            Tree::V1 { memory: Some(dir), .. } => (dir.join("memory.oom_control"), "oom_kill "),
            Tree::V1 { .. } => return 0,
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()).unwrap_or(0)
    }

    /// Stops every process of the group where it stands. `false`: this machine cannot.
    pub fn freeze(&self) -> bool {
        self.freezable && self.write_freezer("FROZEN", "1")
    }

    /// Lets them go on.
    pub fn thaw(&self) -> bool {
        self.freezable && self.write_freezer("THAWED", "0")
    }

    fn write_freezer(&self, v1: &str, v2: &str) -> bool {
        match &self.tree {
            Tree::V2(dir) => fs::write(dir.join("cgroup.freeze"), v2).is_ok(),
            Tree::V1 { freezer: Some(dir), .. } => fs::write(dir.join("freezer.state"), v1).is_ok(),
            Tree::V1 { .. } => false,
        }
    }

    /// Kills every process of the group, thawing it first (a frozen process cannot die).
    pub fn kill(&self) {
        self.thaw();
        for dir in self.tree.dirs() {
            if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
                return;
            }
        }
        for dir in self.tree.dirs() {
            for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            }
        }
    }

    /// Removes the directories. `false` while processes are still in them: call again.
    pub fn remove(&self) -> bool {
        self.tree.dirs().into_iter().all(|dir| match fs::remove_dir(dir) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        })
    }
}

fn put(file: &Path, text: &str) -> io::Result<()> {
    File::options().write(true).open(file)?.write_all(text.as_bytes())
}

fn number(file: &Path) -> Option<u64> {
    let mut text = String::new();
    File::open(file).ok()?.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_any_hierarchy_says_so() {
        assert_eq!(find("proc /proc proc rw 0 0\n", "x").unwrap(), None);
    }

    #[test]
    fn version_2_needs_its_controllers() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "hugetlb\n").unwrap();
        assert_eq!(open_v2(dir.path(), "x").unwrap(), None);
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let tree = open_v2(dir.path(), "x").unwrap();
        assert_eq!(tree, Some(Tree::V2(dir.path().join("offshoot/x"))));
        let control = fs::read_to_string(dir.path().join("offshoot/x/cgroup.subtree_control")).unwrap();
        assert_eq!(control, "+memory +pids +cpu");
    }
}
