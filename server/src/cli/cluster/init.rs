//! `cluster init`: a new cluster, from a list of its nodes.
//!
//! It draws the number of the cluster and makes, below one directory, what each node needs: its own
//! directory, which says from then on whose it is, and a file of settings. Nothing that is there is
//! overwritten, and everything is looked at before anything is made.
//!
//! ```text
//! DIR/node-1/         the data of node 1; can be opened as node 1 of this cluster and as nothing else
//! DIR/node-1.toml     its settings
//! DIR/secret          what all nodes have in common; unless all are on loopback, or TLS is chosen
//! DIR/certificates/   with --tls
//! ```
//!
//! The nodes form the cluster when they run: they elect their first leader together, as those do that
//! are started with a list on empty directories. So there is one way to form a cluster. What differs is
//! that these directories cannot become part of another one.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use strandline_replication::ReplicaId;
use strandline_wal::disk::{Disk, RealDisk, Rung, VERDICT_FILE};

use super::certificates;
use crate::cli::ConfigArguments;
use crate::cli::error::{Error, Result};
use crate::cluster::{Node, Nodes};
use crate::config::{Config, Origin};

/// Numbers of clusters are below this: any reader of JSON keeps them whole.
const CLUSTER_ID_END: u64 = 1 << 53;
/// Bytes of the secret, written as twice as many digits.
const SECRET_LEN: usize = 32;
/// Settings that are each node's own, or other names for others.
const OWN: [&str; 7] = ["dir", "bind", "port", "node-id", "cluster", "cluster-id", "appendfsync"];
/// Settings that name the files of one node.
const ONE_NODES: [&str; 2] = ["cluster-tls-cert", "cluster-tls-key"];

/// Make a new cluster: a directory and a file of settings for each node.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// All nodes: 1=HOST:PORT@PEERPORT,2=...,3=...+witness; without it, those of the settings.
    #[arg(value_name = "NODES")]
    nodes: Option<String>,
    #[command(flatten)]
    config: ConfigArguments,
    /// Where to put what the nodes need.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Links between the nodes go over TLS: makes certificates for trying it out.
    #[arg(long)]
    tls: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A cluster to be made.
#[derive(Debug)]
pub(crate) struct Form {
    /// Below which directory.
    pub(crate) dir: PathBuf,
    /// All its nodes, as on the command line.
    pub(crate) nodes: String,
    /// Further settings, the same for all nodes.
    pub(crate) settings: Config,
    /// Whether to make certificates.
    pub(crate) tls: bool,
}

/// What was made.
#[derive(Debug)]
pub(crate) struct Formed {
    /// The number of the cluster.
    pub(crate) cluster_id: u64,
    /// Of each node, in the order of their numbers.
    pub(crate) nodes: Vec<FormedNode>,
    /// Whether all are on this machine.
    is_loopback: bool,
    /// What all nodes need beside their own: the secret or the authority's certificate.
    shared: Vec<PathBuf>,
}

/// What was made for one node.
#[derive(Debug)]
pub(crate) struct FormedNode {
    node: Node,
    dir: PathBuf,
    /// Its file of settings.
    pub(crate) config: PathBuf,
}

pub(super) fn init(args: &InitArgs) -> Result<bool> {
    let settings =
        args.config.load().map_err(|error| Error::Usage { reason: error.to_string() })?;
    let nodes = match (&args.nodes, settings.get("cluster")) {
        (Some(nodes), _) => nodes.clone(),
        (None, "") => {
            let reason = "name the nodes, as 1=HOST:PORT@PEERPORT,2=...,3=..., or a file that has them \
                          with --config";
            return Err(Error::Usage { reason: reason.into() });
        }
        (None, nodes) => nodes.to_owned(),
    };
    let tells_password = !settings.get("requirepass").is_empty() || settings.is_on("insecure");
    let formed = form(Form { dir: args.dir.clone(), nodes, settings, tls: args.tls })?;
    match args.json {
        true => println!("{}", formed.json()),
        false => print!("{}", formed.text(args.tls, tells_password)),
    }
    Ok(true)
}

/// Makes what the nodes of a new cluster need.
///
/// # Errors
///
/// If something is there already: then nothing was made. If something cannot be made.
pub(crate) fn form(order: Form) -> Result<Formed> {
    let usage = |reason: String| Error::Usage { reason };
    let first = order.nodes.split('=').next().and_then(|id| id.trim().parse().ok()).unwrap_or(0);
    let nodes = Nodes::parse(first, &order.nodes).map_err(|error| usage(error.to_string()))?;
    let settings = &order.settings;
    if let Some(name) = ONE_NODES.iter().find(|name| !settings.get(name).is_empty()) {
        return Err(usage(format!(
            "{name} is one node's: leave it out, and say --tls, or put each node's own into its file"
        )));
    }
    let dir = std::path::absolute(&order.dir).map_err(|source| Error::Path {
        operation: "find directory",
        path: order.dir.clone(),
        source,
    })?;
    let files = Files { dir: dir.clone() };
    files.check(&nodes)?;
    let disk = RealDisk::open(&dir, Some(Rung::PortableFsync))?;
    disk.create_dir_all(&dir)?;
    let cluster_id = draw_cluster_id()?;
    let mut shared = Vec::new();
    let ids: Vec<u64> = nodes.all().map(|node| node.id.0).collect();
    if order.tls {
        certificates::make_in(&files.certificates(), &ids)?;
        shared.push(files.certificates().join("authority.pem"));
    } else if !nodes.is_loopback() && settings.get("cluster-secret-file").is_empty() {
        write(&files.secret(), &format!("{}\n", draw_secret()?), 0o600)?;
        shared.push(files.secret());
    }
    let mut formed = Vec::new();
    for node in nodes.all() {
        let (data, config) = (files.data(node.id), files.config(node.id));
        strandline_replication::prepare(&disk, &data, cluster_id, node.id)?;
        write(&config, &files.settings_of(node, &nodes, cluster_id, &order), 0o600)?;
        formed.push(FormedNode { node: node.clone(), dir: data, config });
    }
    disk.sync_dir(&dir)?;
    Ok(Formed { cluster_id, nodes: formed, is_loopback: nodes.is_loopback(), shared })
}

/// Where everything goes.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn data(&self, id: ReplicaId) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    fn config(&self, id: ReplicaId) -> PathBuf {
        self.dir.join(format!("node-{id}.toml"))
    }

    fn secret(&self) -> PathBuf {
        self.dir.join("secret")
    }

    fn certificates(&self) -> PathBuf {
        self.dir.join("certificates")
    }

    /// Refuses if anything is there that would be made.
    fn check(&self, nodes: &Nodes) -> Result<()> {
        for node in nodes.all() {
            let dir = self.data(node.id);
            if let Some(found) = first_name(&dir)? {
                // The better answer, if the directory knows whose it is.
                let disk = RealDisk::open(&dir, Some(Rung::PortableFsync))?;
                if let Some((group, id)) = strandline_replication::identity(&disk, &dir)? {
                    let formed = strandline_replication::Error::Formed { path: dir, group, id };
                    return Err(formed.into());
                }
                return Err(Error::Occupied { path: dir, found });
            }
        }
        let configs = nodes.all().map(|node| self.config(node.id));
        for path in configs.chain([self.secret(), self.certificates()]) {
            if path.symlink_metadata().is_ok() {
                return Err(Error::Occupied { path, found: String::new() });
            }
        }
        Ok(())
    }

    /// The text of a node's file.
    fn settings_of(&self, node: &Node, nodes: &Nodes, cluster_id: u64, order: &Form) -> String {
        let (id, dir) = (node.id, self.data(node.id));
        let list: Vec<String> = nodes.all().map(Node::to_string).collect();
        let mut text = format!("# Node {id} of cluster {cluster_id}.\n");
        let mut set = |name: &str, value: &str| {
            let value = toml::Value::String(value.to_owned());
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name} = {value}");
        };
        set("dir", &dir.to_string_lossy());
        set("listen", &node.address);
        set("node-id", &id.to_string());
        set("cluster-id", &cluster_id.to_string());
        set("cluster", &list.join(","));
        if order.tls {
            let certificate = |name: String| self.certificates().join(name);
            let files = [
                ("cluster-tls-cert", format!("node-{id}.pem")),
                ("cluster-tls-key", format!("node-{id}.key")),
                ("cluster-tls-ca", "authority.pem".to_owned()),
            ];
            for (name, file) in files {
                set(name, &certificate(file).to_string_lossy());
            }
        } else if !nodes.is_loopback() && order.settings.get("cluster-secret-file").is_empty() {
            set("cluster-secret-file", &self.secret().to_string_lossy());
        }
        for (name, value, origin) in order.settings.all() {
            if *origin != Origin::Default && !OWN.contains(&name) {
                set(name, &value);
            }
        }
        text
    }
}

/// A name in a directory; none if it is empty or not there. What a new file system holds does not count, nor what
/// somebody found who only tried the disk.
fn first_name(dir: &Path) -> Result<Option<String>> {
    let refused = |source| Error::Path { operation: "read directory", path: dir.into(), source };
    let names = match fs::read_dir(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    for name in names {
        let name = name.map_err(refused)?.file_name();
        if name != "lost+found" && name != VERDICT_FILE {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Writes a file that was not there, durably.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let refused = |operation| move |source| Error::Path { operation, path: path.into(), source };
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(refused("create file"))?;
    file.write_all(text.as_bytes()).map_err(refused("write"))?;
    file.sync_all().map_err(refused("sync"))
}

fn draw_bytes() -> Result<[u8; SECRET_LEN]> {
    let mut bytes = [0; SECRET_LEN];
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    let what = "a number that nobody foresees";
    match drawn.map_err(std::io::Error::from) {
        // The system gives so few whole.
        Ok(SECRET_LEN) => Ok(bytes),
        Ok(_) => Err(Error::System { what, source: std::io::ErrorKind::UnexpectedEof.into() }),
        Err(source) => Err(Error::System { what, source }),
    }
}

/// A number that no other cluster has, and not the one of a cluster that nobody has numbered.
fn draw_cluster_id() -> Result<u64> {
    let bytes = draw_bytes()?;
    let (first, _) = bytes.split_first_chunk().expect("there are more than eight");
    let unnamed = crate::cluster::nodes::GROUP;
    Ok((u64::from_le_bytes(*first) % CLUSTER_ID_END).max(unnamed + 1))
}

fn draw_secret() -> Result<String> {
    Ok(draw_bytes()?.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

impl FormedNode {
    /// What to type.
    fn command(&self) -> String {
        let path = self.config.display().to_string();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
        match path.bytes().all(is_plain) {
            true => format!("strandline serve --config {path}"),
            false => format!("strandline serve --config '{}'", path.replace('\'', "'\\''")),
        }
    }
}

impl Formed {
    /// What to type when the nodes run.
    fn status_command(&self) -> String {
        let address = self.nodes.first().map_or("", |formed| &formed.node.address);
        format!("strandline cluster status --node {address}")
    }

    fn json(&self) -> serde_json::Value {
        let nodes = self.nodes.iter().map(|formed| {
            serde_json::json!({
                "id": formed.node.id.0,
                "address": formed.node.address,
                "dir": formed.dir.display().to_string(),
                "config": formed.config.display().to_string(),
                "command": formed.command(),
            })
        });
        let shared = self.shared.iter().map(|path| path.display().to_string());
        serde_json::json!({
            "cluster_id": self.cluster_id,
            "nodes": nodes.collect::<Vec<_>>(),
            "shared_files": shared.collect::<Vec<_>>(),
            "status_command": self.status_command(),
        })
    }

    fn text(&self, tls: bool, tells_password: bool) -> String {
        let mut lines = vec![format!(
            "cluster {} is prepared; start all its nodes, they elect their first leader together:",
            self.cluster_id
        )];
        lines.extend(self.nodes.iter().map(|formed| format!("  {}", formed.command())));
        lines.push("and look at it with:".into());
        lines.push(format!("  {}", self.status_command()));
        if !self.is_loopback {
            let mut files = vec!["node-N".to_owned(), "node-N.toml".into()];
            if tls {
                files.extend(["node-N.pem", "node-N.key"].map(str::to_owned));
            }
            files.extend(self.shared.iter().map(|path| path.display().to_string()));
            lines.push(format!(
                "a node on another machine needs there: {}; paths in node-N.toml can be changed",
                files.join(", ")
            ));
            if !tells_password {
                lines.push(
                    "clients come from other machines: put requirepass = \"...\" into each node-N.toml"
                        .into(),
                );
            }
        }
        if !tls {
            lines.push(
                "links are not encrypted: with --tls this makes certificates, as does strandline cluster \
                 certificates"
                    .into(),
            );
        }
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::scratch::Scratch;

    fn order(dir: &Path, nodes: &str) -> Form {
        let mut settings = Config::default();
        settings.set("maxclients", "77", Origin::Command).unwrap();
        Form { dir: dir.into(), nodes: nodes.into(), settings, tls: false }
    }

    const NODES: &str = "3=c.example:1@2+witness,1=a.example:1@2,2=b.example:1@2";

    #[test]
    fn each_node_gets_a_directory_of_its_own_and_settings_that_are_understood() {
        let scratch = Scratch::create(None, "init").unwrap();
        let formed = form(order(scratch.path(), NODES)).unwrap();
        assert!(formed.cluster_id > 1);
        let disk = RealDisk::open(scratch.path(), Some(Rung::PortableFsync)).unwrap();
        for (formed_node, id) in formed.nodes.iter().zip(1..) {
            let found = strandline_replication::identity(&disk, &formed_node.dir).unwrap();
            assert_eq!(found, Some((formed.cluster_id, ReplicaId(id))));
            let config = Config::load(Some(&formed_node.config), std::iter::empty()).unwrap();
            assert_eq!(config.number("node-id"), i64::try_from(id).unwrap());
            assert_eq!(config.get("cluster-id"), formed.cluster_id.to_string());
            assert_eq!((config.get("port"), config.get("maxclients")), ("1", "77"));
            let nodes = Nodes::parse(id, config.get("cluster")).unwrap();
            assert!(nodes.get(ReplicaId(3)).unwrap().is_witness);
            crate::cluster::Secret::load(Path::new(config.get("cluster-secret-file"))).unwrap();
        }
        let text = formed.text(false, false);
        assert!(
            text.contains(&formed.nodes[2].command()) && text.contains("requirepass"),
            "{text}"
        );
        assert_eq!(formed.json()["nodes"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_made_beside_it() {
        let scratch = Scratch::create(None, "init").unwrap();
        let formed = form(order(scratch.path(), NODES)).unwrap();
        let again = form(order(scratch.path(), NODES)).unwrap_err();
        let cluster = formed.cluster_id;
        let Error::Replica(strandline_replication::Error::Formed { group, .. }) = &again else {
            panic!("{again}");
        };
        assert_eq!(*group, cluster);
        let other = Scratch::create(None, "init").unwrap();
        fs::create_dir(other.path().join("node-2")).unwrap();
        fs::write(other.path().join("node-2/letters"), "dear").unwrap();
        let refused = form(order(other.path(), NODES)).unwrap_err();
        assert!(
            matches!(&refused, Error::Occupied { found, .. } if found == "letters"),
            "{refused}"
        );
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
        fs::remove_dir_all(other.path().join("node-2")).unwrap();
        fs::write(other.path().join("node-3.toml"), "").unwrap();
        let refused = form(order(other.path(), NODES)).unwrap_err();
        assert!(matches!(&refused, Error::Occupied { found, .. } if found.is_empty()), "{refused}");
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_list_that_makes_no_sense_is_wrong_usage() {
        let scratch = Scratch::create(None, "init").unwrap();
        for nodes in ["", "1=a:1", "1=a:1@2,1=b:1@2"] {
            let refused = form(order(scratch.path(), nodes)).unwrap_err();
            assert!(matches!(refused, Error::Usage { .. }), "{refused}");
        }
        let mut named = order(scratch.path(), NODES);
        named.settings.set("cluster-tls-key", "k", Origin::Command).unwrap();
        assert!(matches!(form(named).unwrap_err(), Error::Usage { .. }));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[cfg(feature = "tls")]
    #[test]
    fn with_tls_each_node_has_its_certificate() {
        let scratch = Scratch::create(None, "init").unwrap();
        let formed = form(Form { tls: true, ..order(scratch.path(), NODES) }).unwrap();
        for node in &formed.nodes {
            let config = Config::load(Some(&node.config), std::iter::empty()).unwrap();
            let [certificate, key, authority] =
                ["cluster-tls-cert", "cluster-tls-key", "cluster-tls-ca"]
                    .map(|name| config.get(name));
            let files = [certificate, key, authority].map(Path::new);
            crate::cluster::tls::Tls::load(files[0], files[1], files[2]).unwrap();
        }
    }
}
