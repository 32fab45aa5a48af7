//! One tree made of several: what a function sees at `/opt` when it has layers. Later trees win over earlier ones, path by
//! path, as AWS unpacks them (<https://docs.aws.amazon.com/lambda/latest/dg/chapter-layers.html>).
//!
//! It reads and makes trees only through `Tree`, so no name and no link leads outside, and it knows nothing of layers.

use std::collections::BTreeMap;
use std::io;

use offshoot_model::{CodeDigest, Error, ErrorKind};
use sha2::{Digest, Sha256};

use super::{CodeStore, FORMAT, Kept, Manifest, Node, Staged};
use crate::registry::archive::unzipped_too_large;
use crate::registry::disk_error;
use crate::registry::tree::Tree;

impl CodeStore {
    /// The tree of these trees, in this order; made if it is not here. One tree is itself. The code may weigh `room` bytes.
    pub fn merge(&self, parts: &[CodeDigest], room: u64) -> Result<(CodeDigest, Kept<'_>), Error> {
        let digest = match parts {
            [one] => one.clone(),
            many => {
                let names: Vec<&str> = many.iter().map(CodeDigest::as_str).collect();
                CodeDigest::from_bytes(&Sha256::digest(format!("one over the other {}", names.join(" "))).into())
            }
        };
        let pin = self.pin(&digest);
        let manifests = parts.iter().map(|part| self.manifest(part)).collect::<Result<Vec<_>, _>>()?;
        let plan = overlay(&manifests);
        let size: u64 = plan.values().map(|(_, node)| size_of(node)).sum();
        if size > room {
            return Err(unzipped_too_large(self.limits.unzipped_bytes));
        }
        let present = self.code.join(digest.as_str()).symlink_metadata().is_ok();
        if present && self.verify(&digest).is_ok() {
            return Ok((digest, Kept { _pin: pin }));
        }
        if let [one] = parts {
            return Err(super::corrupt(one, "a layer cannot be read"));
        }
        let (fresh, tree) = self.fresh()?;
        let sources = parts.iter().map(|part| self.tree(part)).collect::<Result<Vec<_>, _>>()?;
        make(&tree, &sources, &plan)?;
        let nodes = plan.into_values().map(|(_, node)| node).collect();
        let manifest = Manifest { format: FORMAT, archive_bytes: 0, stripped: None, nodes };
        let staged = Staged {
            store: self,
            digest: digest.clone(),
            sha256: digest.clone(),
            manifest,
            archive: None,
            fresh: Some(fresh),
            replaces: present,
            _pin: pin,
        };
        Ok((digest, staged.commit()?))
    }

    /// Bytes that the code takes once unpacked.
    pub fn unpacked_bytes(&self, digest: &CodeDigest) -> Result<u64, Error> {
        Ok(self.manifest(digest)?.nodes.iter().map(size_of).sum())
    }
}

fn size_of(node: &Node) -> u64 {
    if let Node::File { size, .. } = node { *size } else { 0 }
}

/// Which tree each path comes from. A path's parents come before it, since they sort before it.
fn overlay(manifests: &[Manifest]) -> BTreeMap<String, (usize, Node)> {
    let mut plan: BTreeMap<String, (usize, Node)> = BTreeMap::new();
    for (from, manifest) in manifests.iter().enumerate() {
        for node in &manifest.nodes {
            let path = node.path();
            let is_dir = matches!(node, Node::Dir { .. });
            let was_dir = plan.get(path).is_some_and(|(_, old)| matches!(old, Node::Dir { .. }));
            if is_dir && was_dir {
                continue;
            }
            if was_dir {
                let below = format!("{path}/");
                plan.retain(|known, _| !known.starts_with(&below));
            }
            plan.insert(path.to_owned(), (from, node.clone()));
        }
    }
    plan
}

fn make(tree: &Tree, sources: &[Tree], plan: &BTreeMap<String, (usize, Node)>) -> Result<(), Error> {
    for (path, (from, node)) in plan {
        match node {
            Node::Dir { .. } => tree.make_dir(path).map_err(disk_error)?,
            Node::Link { .. } => {}
            Node::File { mode, .. } => {
                let lost =
                    || Error::new(ErrorKind::CodeCorrupt, "a file of a layer is missing: publish the layer again");
                let mut source = sources[*from].open_file(path).map_err(disk_error)?.ok_or_else(lost)?;
                let mut file = tree.make_file(path, mode & 0o100 != 0).map_err(disk_error)?;
                io::copy(&mut source, &mut file).map_err(disk_error)?;
            }
        }
    }
    // Links last, so that nothing is made through one; each must stay in the tree, which is another tree than it was made for.
    for (path, (_, node)) in plan {
        if let Node::Link { target, .. } = node {
            tree.make_link(path, target).map_err(disk_error)?;
        }
    }
    for (path, (_, node)) in plan {
        if matches!(node, Node::Link { .. }) && !tree.link_stays(path).map_err(disk_error)? {
            let message = format!("the link '{}' leads out of the merged layers", path.escape_debug());
            return Err(Error::new(ErrorKind::BadArchive, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(nodes: Vec<Node>) -> Manifest {
        Manifest { format: FORMAT, archive_bytes: 0, stripped: None, nodes }
    }
    fn file(path: &str, size: u64) -> Node {
        Node::File { path: path.into(), mode: 0o644, size, sha256: String::new() }
    }
    fn dir(path: &str) -> Node {
        Node::Dir { path: path.into() }
    }

    #[test]
    fn later_trees_win_and_take_what_is_below() {
        let first = manifest(vec![dir("a"), file("a/x", 1), file("a/y", 1), file("b", 1), dir("c"), file("c/z", 1)]);
        let second = manifest(vec![dir("a"), file("a/x", 2), dir("b"), file("b/q", 2), file("c", 2)]);
        let plan = overlay(&[first, second]);
        let shown: Vec<(&str, usize)> = plan.iter().map(|(path, (from, _))| (path.as_str(), *from)).collect();
        assert_eq!(shown, [("a", 0), ("a/x", 1), ("a/y", 0), ("b", 1), ("b/q", 1), ("c", 1)]);
    }
}
