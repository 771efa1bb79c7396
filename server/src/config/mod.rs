//! Settings, in layers: default < file < environment < flag, each with its origin.
//!
//! There is one table of settings (`settings`). A setting is kept as normalised text beside where it
//! came from, so that `config show --origin` and `CONFIG GET` show what is in force and errors name
//! the line, variable or flag to mend. A setting that is not in the table is an error: a typing error
//! in a file must not silently mean the default.
//!
//! A file is TOML or a subset of redis.conf, told apart by its content (see `file`). Variables are
//! called `STRANDLINE_` and the name in capitals, with `_` for `-`.

mod file;
mod settings;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

pub use settings::{Kind, SETTINGS, Setting};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A file.
    File {
        /// Which.
        path: PathBuf,
        /// On which line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// `CONFIG SET` on the running server.
    Command,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => out.write_str("default"),
            Origin::File { path, line } => write!(out, "{} line {line}", path.display()),
            Origin::Environment(name) => write!(out, "environment variable {name}"),
            Origin::Flag(name) => write!(out, "flag {name}"),
            Origin::Command => out.write_str("CONFIG SET"),
        }
    }
}

/// Why settings are refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// No setting has this name.
    Unknown {
        /// The name.
        name: String,
        /// Where it stands.
        origin: Origin,
    },
    /// The value does not fit the setting.
    Invalid {
        /// The setting.
        name: &'static str,
        /// The value.
        value: String,
        /// What it should be.
        expected: String,
        /// Where it stands.
        origin: Origin,
    },
    /// It cannot be changed while the server runs.
    Fixed {
        /// The setting.
        name: &'static str,
    },
    /// A file is not in its own format.
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, origin } => {
                write!(out, "{origin}: there is no setting {name}; see `strandline config show`")
            }
            Self::Invalid { name, value, expected, origin } => {
                write!(out, "{origin}: {name} cannot be '{value}': {expected}")
            }
            Self::Fixed { name } => {
                write!(out, "{name} cannot be changed while the server runs: restart it")
            }
            Self::Malformed { path, line, reason } => {
                write!(out, "{} line {line}: {reason}", path.display())
            }
            Self::Unreadable { path, source } => {
                write!(out, "{} cannot be read: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// The result of reading settings.
pub type Result<T> = std::result::Result<T, ConfigError>;

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The value of each setting of the table, normalised, and its origin.
    values: Vec<(String, Origin)>,
}

/// Older names of settings, as Redis still takes them, and what they are called now.
const OLDER_NAMES: [(&str, &str); 6] = [
    ("slaveof", "replicaof"),
    ("min-slaves-to-write", "min-replicas-to-write"),
    ("min-slaves-max-lag", "min-replicas-max-lag"),
    ("slave-read-only", "replica-read-only"),
    ("slave-serve-stale-data", "replica-serve-stale-data"),
    ("slave-priority", "replica-priority"),
];

/// The name that a setting has in the table.
pub fn canonical(name: &str) -> &str {
    let older = OLDER_NAMES.iter().find(|(older, _)| older.eq_ignore_ascii_case(name));
    older.map_or(name, |(_, name)| name)
}

/// Whether a setting has this name.
pub fn is_setting(name: &str) -> bool {
    settings::place_of(canonical(name)).is_some()
}

impl Default for Config {
    fn default() -> Self {
        let values =
            SETTINGS.iter().map(|setting| (setting.default.to_owned(), Origin::Default)).collect();
        Self { values }
    }
}

impl Config {
    /// The settings of a file (if one is named), over the defaults; then those of `environment`.
    ///
    /// # Errors
    ///
    /// The first setting that is refused.
    pub fn load(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self> {
        let mut config = Self::default();
        if let Some(path) = path {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
            config.take_file(path, &text)?;
        }
        config.take_environment(environment)?;
        Ok(config)
    }

    /// Takes over the settings of a file's text.
    ///
    /// # Errors
    ///
    /// The first that is refused.
    pub fn take_file(&mut self, path: &Path, text: &str) -> Result<()> {
        for assignment in file::parse(path, text)? {
            let origin = Origin::File { path: path.to_path_buf(), line: assignment.line };
            self.set(&assignment.name, &assignment.value, origin)?;
        }
        Ok(())
    }

    /// Takes over the variables that are settings.
    ///
    /// # Errors
    ///
    /// The first that is refused.
    pub fn take_environment(
        &mut self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<()> {
        for (variable, value) in environment {
            let Some(name) = variable.strip_prefix("STRANDLINE_") else { continue };
            let name = name.to_lowercase().replace('_', "-");
            // These two are read by the command line itself.
            if name != "config" && name != "log" {
                self.set(&name, &value, Origin::Environment(variable))?;
            }
        }
        Ok(())
    }

    /// Sets one setting.
    ///
    /// # Errors
    ///
    /// If there is none of this name or the value does not fit.
    pub fn set(&mut self, name: &str, value: &str, origin: Origin) -> Result<()> {
        let name = canonical(name);
        // Two settings are other names for others.
        if name.eq_ignore_ascii_case("listen") {
            return self.set_listen(value, origin);
        }
        if name.eq_ignore_ascii_case("appendfsync") {
            let durability = match value.to_ascii_lowercase().as_str() {
                "always" => "disk",
                "everysec" | "no" => "memory",
                _ => {
                    let expected = "one of always, everysec, no".to_owned();
                    let value = value.to_owned();
                    return Err(ConfigError::Invalid {
                        name: "appendfsync",
                        value,
                        expected,
                        origin,
                    });
                }
            };
            return self.set("durability", durability, origin);
        }
        let Some(place) = settings::place_of(name) else {
            return Err(ConfigError::Unknown { name: name.to_owned(), origin });
        };
        let setting = &SETTINGS[place];
        match setting.kind.normalise(value) {
            Ok(value) => self.values[place] = (value, origin),
            Err(expected) => {
                let value = value.to_owned();
                return Err(ConfigError::Invalid { name: setting.name, value, expected, origin });
            }
        }
        Ok(())
    }

    fn set_listen(&mut self, value: &str, origin: Origin) -> Result<()> {
        let Some((host, port)) = value.rsplit_once(':') else {
            return Err(ConfigError::Invalid {
                name: "listen",
                value: value.to_owned(),
                expected: "HOST:PORT, such as 127.0.0.1:6379".into(),
                origin,
            });
        };
        self.set("port", port, origin.clone())?;
        self.set("bind", host.trim_start_matches('[').trim_end_matches(']'), origin)
    }

    /// The value of a setting as text.
    ///
    /// # Panics
    ///
    /// If there is no such setting: the program names its own settings.
    pub fn get(&self, name: &str) -> &str {
        let place = settings::place_of(name).expect("the program names settings of the table");
        &self.values[place].0
    }

    /// The value of a setting that is a number.
    ///
    /// # Panics
    ///
    /// If there is no such setting, or it is no number.
    pub fn number(&self, name: &str) -> i64 {
        self.get(name).parse().expect("a number is kept in normalised form")
    }

    /// The value of a setting that is a count or size: negative is zero.
    ///
    /// # Panics
    ///
    /// If there is no such setting, or it is no number.
    pub fn size(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(0)
    }

    /// Whether a switch is on.
    ///
    /// # Panics
    ///
    /// If there is no such setting.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name) == "yes"
    }

    /// All settings with their values and origins, as `CONFIG GET` names them.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, String, &Origin)> {
        let of_table = SETTINGS
            .iter()
            .zip(&self.values)
            .map(|(setting, (value, origin))| (setting.name, value.clone(), origin));
        let place = settings::place_of("durability").expect("it is in the table");
        let durability = &self.values[place];
        let appendfsync = if durability.0 == "disk" { "always" } else { "everysec" };
        of_table.chain([("appendfsync", appendfsync.to_owned(), &durability.1)])
    }

    /// Where to listen.
    ///
    /// # Errors
    ///
    /// If a host's name stands for no address.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let place = settings::place_of("bind").expect("it is in the table");
        let (hosts, origin) = &self.values[place];
        let port = u16::try_from(self.number("port")).expect("bounded by the table");
        let mut addresses = Vec::new();
        for host in hosts.split_whitespace() {
            // A leading minus allows, in redis.conf, that the address does not exist.
            let is_optional = host.starts_with('-');
            let host = match host.trim_start_matches('-') {
                "*" => "0.0.0.0",
                "::*" => "::",
                host => host,
            };
            match (host, port).to_socket_addrs().ok().and_then(|mut found| found.next()) {
                Some(address) => addresses.push(address),
                None if is_optional => {}
                None => {
                    return Err(ConfigError::Invalid {
                        name: "bind",
                        value: host.to_owned(),
                        expected: "a host that has an address".into(),
                        origin: origin.clone(),
                    });
                }
            }
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("test.conf")
    }

    #[test]
    fn each_layer_goes_over_the_one_below() {
        let mut config = Config::default();
        assert_eq!((config.get("port"), config.get("maxclients")), ("6379", "10000"));
        config.take_file(path(), "listen = \"127.0.0.1:7000\"\nmaxclients = 5\n").unwrap();
        let variable = ("STRANDLINE_MAXCLIENTS".to_owned(), "6".to_owned());
        config.take_environment([variable].into_iter()).unwrap();
        config.set("port", "7001", Origin::Flag("--listen")).unwrap();
        let shown = |name| config.all().find(|(other, ..)| *other == name).unwrap();
        let (_, value, origin) = shown("port");
        assert_eq!((value.as_str(), origin), ("7001", &Origin::Flag("--listen")));
        assert_eq!(shown("bind").2.to_string(), "test.conf line 1");
        assert_eq!(shown("maxclients").2.to_string(), "environment variable STRANDLINE_MAXCLIENTS");
        assert_eq!(config.addresses().unwrap(), ["127.0.0.1:7001".parse().unwrap()]);
    }

    #[test]
    fn errors_name_the_line() {
        let cases = [
            ("maxclients = 5\nmaxclient = 6\n", "test.conf line 2: there is no setting maxclient"),
            ("port = 70000", "test.conf line 1: port cannot be '70000'"),
            ("\nport = ", "test.conf line 2: "),
            ("port 6379\nappendfsync sometimes\n", "test.conf line 2: appendfsync cannot be"),
            ("[server]\nport = 1", "test.conf line 1: server is a section"),
        ];
        for (text, expected) in cases {
            let error = Config::default().take_file(path(), text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_primary_is_a_host_and_a_port_under_either_name() {
        let mut config = Config::default();
        config
            .take_file(path(), "slaveof db1  6379\nmasterauth tide\nslave-read-only yes\n")
            .unwrap();
        assert_eq!((config.get("replicaof"), config.get("masterauth")), ("db1 6379", "tide"));
        config.take_file(path(), "replicaof = [\"db2\", 7000]").unwrap();
        assert_eq!(config.get("replicaof"), "db2 7000");
        config.set("replicaof", "NO ONE", Origin::Command).unwrap();
        assert_eq!(config.get("replicaof"), "");
        config.set("min-slaves-to-write", "2", Origin::Command).unwrap();
        assert_eq!(config.number("min-replicas-to-write"), 2);
        for text in
            ["replicaof db1", "replicaof db1 70000", "slaveof a b c", "replica-read-only no"]
        {
            assert!(config.take_file(path(), text).is_err(), "{text}");
        }
        assert!(is_setting("SlaveOf") && is_setting("masterauth") && !is_setting("get"));
    }

    #[test]
    fn appendfsync_is_another_name_for_durability() {
        let mut config = Config::default();
        assert_eq!(config.get("durability"), "disk");
        config.set("appendfsync", "everysec", Origin::Command).unwrap();
        assert_eq!(config.get("durability"), "memory");
        assert!(config.all().any(|(name, value, _)| name == "appendfsync" && value == "everysec"));
    }
}
