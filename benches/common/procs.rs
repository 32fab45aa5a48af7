//! Processes and their memory, as `/proc` tells.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Res;

/// A process below the server.
#[derive(Debug, Clone)]
pub struct Proc {
    pub pid: u32,
    pub parent: u32,
    /// How many PID namespaces it is in, as seen from here.
    pub levels: usize,
    pub name: String,
}

fn read(pid: u32) -> Option<Proc> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    Some(Proc {
        pid,
        parent: field("PPid:")?.parse().ok()?,
        levels: field("NSpid:").map_or(1, |list| list.split_whitespace().count()),
        name: field("Name:")?.to_owned(),
    })
}

/// A process and everything that descends from it.
pub fn tree(root: u32) -> Vec<Proc> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let all: Vec<Proc> =
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(read).collect();
    let mut below: HashMap<u32, Vec<&Proc>> = HashMap::new();
    for proc in &all {
        below.entry(proc.parent).or_default().push(proc);
    }
    let mut found: Vec<Proc> = all.iter().filter(|p| p.pid == root).cloned().collect();
    let mut at = 0;
    while at < found.len() {
        let children = below.get(&found[at].pid).into_iter().flatten().map(|p| (*p).clone()).collect::<Vec<_>>();
        found.extend(children);
        at += 1;
    }
    found
}

fn parent() -> Option<u32> {
    read(std::process::id()).map(|own| own.parent)
}

/// Returns never; ends this process and what it started when its parent is gone.
pub fn end_with_parent() {
    let first = parent();
    while parent() == first {
        std::thread::sleep(Duration::from_secs(1));
    }
    let own = std::process::id();
    for proc in tree(own).iter().filter(|p| p.parent == own) {
        let _ = Command::new("kill").arg(proc.pid.to_string()).stderr(Stdio::null()).status();
    }
    std::process::exit(130)
}

/// The workers in boxes: in a PID namespace of their own below the nursery's, and not templates (which have clones), nor spares,
/// which are nobody's yet.
pub fn instances(tree: &[Proc]) -> Vec<&Proc> {
    let parents: std::collections::HashSet<u32> = tree.iter().map(|p| p.parent).collect();
    tree.iter().filter(|p| p.levels >= 3 && !parents.contains(&p.pid) && p.name != "spare").collect()
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub rss: u64,
    pub pss: u64,
    pub private_dirty: u64,
}

pub fn memory(pid: u32) -> Memory {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    let bytes = |name: &str| field(name).unwrap_or(0) << 10;
    Memory { rss: bytes("Rss:"), pss: bytes("Pss:"), private_dirty: bytes("Private_Dirty:") }
}

pub fn total_pss(procs: &[&Proc]) -> u64 {
    procs.iter().map(|p| memory(p.pid).pss).sum()
}

/// Ties every thread of these processes to a processor.
pub fn pin(pids: &[u32], cpu: &str) -> Res<()> {
    for pid in pids {
        let arguments = ["-a", "-c", "-p", cpu, &pid.to_string()];
        let done = Command::new("taskset").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if !done.success() {
            return Err(format!("taskset cannot tie process {pid} to processor {cpu}").into());
        }
    }
    Ok(())
}

/// All processors, as `taskset` takes them.
pub fn all_cpus() -> String {
    let status = std::fs::read_to_string("/proc/1/status").unwrap_or_default();
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).map(str::trim);
    list.unwrap_or("0-1").to_owned()
}
