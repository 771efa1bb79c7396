//! The names of a simulated disk: as the running process sees them, and as a power cut leaves them.
//!
//! There are two maps from place (directory and name) to file or directory. Every change is made to
//! the *visible* map at once and is appended to a list of unsynced changes. Syncing a directory
//! carries its changes from the list into the *durable* map. A power cut draws for each unsynced
//! change by itself whether it is carried over, then forgets the rest.
//!
//! A change says which file it moved, so one whose source did not survive is void: a rename without
//! its creation leaves the old file in place, it does not invent a new one.
//!
//! Directories have an identity apart from their name, so that renaming one keeps what lies in it.
//! Directories are never removed: the seam has no such operation.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use super::random::Random;

/// A file apart from its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(pub(super) u64);

/// A directory apart from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DirectoryId(u64);

/// The directory that is always there. Relative paths begin here too.
const ROOT: DirectoryId = DirectoryId(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory(DirectoryId),
    File(FileId),
}

/// A name in a directory.
type Place = (DirectoryId, String);
type Tree = BTreeMap<Place, Node>;

/// One change of names, atomic.
#[derive(Clone, Debug)]
enum Change {
    Make { at: Place, node: Node },
    Link { from: Place, to: Place, node: Node },
    Move { from: Place, to: Place, node: Node },
    Remove { at: Place, node: Node },
}

impl Change {
    fn places(&self) -> [&Place; 2] {
        match self {
            Change::Make { at, .. } | Change::Remove { at, .. } => [at, at],
            Change::Link { from, to, .. } | Change::Move { from, to, .. } => [from, to],
        }
    }

    fn node(&self) -> Node {
        match self {
            Change::Make { node, .. }
            | Change::Link { node, .. }
            | Change::Move { node, .. }
            | Change::Remove { node, .. } => *node,
        }
    }

    /// Makes the change, unless what it changes is not there.
    fn apply(&self, tree: &mut Tree) {
        match self {
            Change::Make { at, node } => {
                tree.insert(at.clone(), *node);
            }
            Change::Link { from, to, node } => {
                if tree.get(from) == Some(node) {
                    tree.insert(to.clone(), *node);
                }
            }
            Change::Move { from, to, node } => {
                if tree.get(from) == Some(node) {
                    tree.remove(from);
                    tree.insert(to.clone(), *node);
                }
            }
            Change::Remove { at, node } => {
                if tree.get(at) == Some(node) {
                    tree.remove(at);
                }
            }
        }
    }
}

/// All names.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// What operations see.
    visible: Tree,
    /// What a power cut cannot take away.
    durable: Tree,
    /// Changes that `visible` has and `durable` has not, in the order they were made.
    unsynced: Vec<Change>,
    /// How many directories were ever made.
    directory_count: u64,
}

impl Names {
    /// The file of this name.
    pub(super) fn file(&self, path: &Path) -> io::Result<FileId> {
        file_in(&self.visible, path)
    }

    /// The file that would have this name after a power cut that keeps nothing unsynced.
    pub(super) fn durable_file(&self, path: &Path) -> io::Result<FileId> {
        file_in(&self.durable, path)
    }

    /// The directory of this name.
    pub(super) fn directory(&self, path: &Path) -> io::Result<DirectoryId> {
        walk(&self.visible, &components(path)?)
    }

    /// Whether there is a file or directory of this name.
    pub(super) fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.file(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names in a directory, sorted.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let directory = self.directory(path)?;
        let names = self.visible.range((directory, String::new())..);
        let inside = names.take_while(|((parent, _), _)| *parent == directory);
        Ok(inside.map(|((_, name), _)| name.clone()).collect())
    }

    /// Names a new file.
    pub(super) fn create(&mut self, path: &Path, file: FileId) -> io::Result<()> {
        let at = place(&self.visible, path)?;
        if self.visible.contains_key(&at) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.change(Change::Make { at, node: Node::File(file) });
        Ok(())
    }

    /// Makes a directory and its missing parents; `durably` makes the name of each durable, and
    /// those of the parents that were there already.
    pub(super) fn create_directories(&mut self, path: &Path, durably: bool) -> io::Result<()> {
        let mut directory = ROOT;
        for name in components(path)? {
            let at = (directory, name.to_string());
            directory = match self.visible.get(&at) {
                Some(Node::Directory(found)) => *found,
                Some(Node::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                None => {
                    self.directory_count += 1;
                    let made = DirectoryId(self.directory_count);
                    self.change(Change::Make { at: at.clone(), node: Node::Directory(made) });
                    made
                }
            };
            if durably {
                self.carry_over(|place| *place == at);
            }
        }
        Ok(())
    }

    /// Replaces `to` by `from`.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (source, target) = (place(&self.visible, from)?, place(&self.visible, to)?);
        let node = *self.visible.get(&source).ok_or(ErrorKind::NotFound)?;
        match (node, self.visible.get(&target)) {
            // Two names of one file: nothing to do, as POSIX has it.
            (_, Some(old)) if *old == node => return Ok(()),
            (Node::File(_), Some(Node::Directory(_))) => {
                return Err(ErrorKind::IsADirectory.into());
            }
            (Node::Directory(_), Some(Node::File(_))) => {
                return Err(ErrorKind::NotADirectory.into());
            }
            (Node::Directory(_), Some(Node::Directory(_))) if !self.list(to)?.is_empty() => {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            (Node::Directory(_), _) if to.starts_with(from) => {
                return Err(ErrorKind::InvalidInput.into());
            }
            _ => {}
        }
        self.change(Change::Move { from: source, to: target, node });
        Ok(())
    }

    /// Removes the name of a file.
    pub(super) fn remove(&mut self, path: &Path) -> io::Result<FileId> {
        let file = self.file(path)?;
        let at = place(&self.visible, path)?;
        self.change(Change::Remove { at, node: Node::File(file) });
        Ok(file)
    }

    /// Takes the name of a file away, here and on the disk.
    pub(super) fn lose(&mut self, path: &Path) -> io::Result<FileId> {
        let file = self.file(path)?;
        let at = place(&self.visible, path)?;
        // What was done to the name before must not bring it back.
        self.carry_over(|place| *place == at);
        self.visible.remove(&at);
        self.durable.remove(&at);
        Ok(file)
    }

    /// Makes a second name for a file.
    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = Node::File(self.file(from)?);
        let (from, to) = (place(&self.visible, from)?, place(&self.visible, to)?);
        if self.visible.contains_key(&to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.change(Change::Link { from, to, node });
        Ok(())
    }

    /// Makes the changes in one directory durable.
    pub(super) fn sync(&mut self, directory: DirectoryId) {
        self.carry_over(|(parent, _)| *parent == directory);
    }

    /// Keeps each unsynced change with this chance, in order, and forgets the others.
    pub(super) fn power_cut(&mut self, per_mille: u32, random: &mut Random) {
        for change in std::mem::take(&mut self.unsynced) {
            if random.chance(per_mille) {
                change.apply(&mut self.durable);
            }
        }
        self.drop_unreachable();
        self.visible = self.durable.clone();
    }

    /// Whether any name, seen or durable or in between, refers to this file.
    pub(super) fn mentions(&self, file: FileId) -> bool {
        let node = Node::File(file);
        self.is_visible(file)
            || self.durable.values().any(|found| *found == node)
            || self.unsynced.iter().any(|change| change.node() == node)
    }

    /// Whether the file has a name that operations see.
    pub(super) fn is_visible(&self, file: FileId) -> bool {
        self.visible.values().any(|found| *found == Node::File(file))
    }

    /// All files that operations see, with their paths from the root, sorted.
    pub(super) fn files(&self) -> Vec<(PathBuf, FileId)> {
        let mut files = Vec::new();
        let mut open = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, directory)) = open.pop() {
            for ((parent, name), node) in self.visible.range((directory, String::new())..) {
                if *parent != directory {
                    break;
                }
                match node {
                    Node::Directory(inner) => open.push((path.join(name), *inner)),
                    Node::File(file) => files.push((path.join(name), *file)),
                }
            }
        }
        files.sort();
        files
    }

    /// Makes a change visible, and remembers that it is not durable.
    fn change(&mut self, change: Change) {
        change.apply(&mut self.visible);
        self.unsynced.push(change);
    }

    /// Makes the changes of the chosen places durable, and with them the earlier changes that they
    /// build on: a rename into a synced directory is durable only if its file was created.
    fn carry_over(&mut self, chosen: impl Fn(&Place) -> bool) {
        let mut needed: BTreeSet<Place> = BTreeSet::new();
        let mut carried = vec![false; self.unsynced.len()];
        for (change, carried) in self.unsynced.iter().zip(&mut carried).rev() {
            *carried = change.places().iter().any(|at| chosen(at) || needed.contains(*at));
            if *carried {
                needed.extend(change.places().into_iter().cloned());
            }
        }
        let mut carried = carried.into_iter();
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            let carried = carried.next().expect("one mark for each change");
            if carried {
                change.apply(durable);
            }
            !carried
        });
    }

    /// Forgets durable names in directories that did not survive.
    fn drop_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(directory) = open.pop() {
            for ((parent, _), node) in self.durable.range((directory, String::new())..) {
                match node {
                    _ if *parent != directory => break,
                    Node::Directory(inner) if reached.insert(*inner) => open.push(*inner),
                    Node::Directory(_) | Node::File(_) => {}
                }
            }
        }
        self.durable.retain(|(parent, _), _| reached.contains(parent));
    }
}

/// The names along a path. The root, and `.`, have none.
fn components(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_str().ok_or(ErrorKind::InvalidInput)?),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(ErrorKind::InvalidInput.into());
            }
        }
    }
    Ok(names)
}

/// The directory at the end of these names.
fn walk(tree: &Tree, names: &[&str]) -> io::Result<DirectoryId> {
    names.iter().try_fold(ROOT, |directory, name| {
        match tree.get(&(directory, (*name).to_string())) {
            Some(Node::Directory(found)) => Ok(*found),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    })
}

/// The place of a path, whose directory must exist.
fn place(tree: &Tree, path: &Path) -> io::Result<Place> {
    let names = components(path)?;
    let (last, parents) = names.split_last().ok_or(ErrorKind::IsADirectory)?;
    Ok((walk(tree, parents)?, (*last).to_string()))
}

fn file_in(tree: &Tree, path: &Path) -> io::Result<FileId> {
    match tree.get(&place(tree, path)?) {
        Some(Node::File(file)) => Ok(*file),
        Some(Node::Directory(_)) => Err(ErrorKind::IsADirectory.into()),
        None => Err(ErrorKind::NotFound.into()),
    }
}
