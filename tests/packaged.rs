//! What others have packaged: the original SQL modules, pgqd, the Python programs. Where something is missing
//! the test that needs it says so and passes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::versions::{self, Search};

/// The interpreter whose packages are Debian's.
pub const PYTHON: &str = "/usr/bin/python3";

pub const EXTENSIONS: [&str; 3] = ["pgq", "pgq_node", "londiste"];

/// Says that a test does nothing here, and why. `.ci/install.sh` installs what it names.
pub fn skipped(missing: &str) {
    eprintln!("SKIPPED: {missing} is not installed");
}

/// The newest server that has the original modules packaged for it.
pub async fn server() -> Option<Server> {
    let majors = versions::installed(&Search::from_env(None));
    let Some(found) = majors.iter().find(|b| {
        // The packages' files are found by the server of the same packages only.
        b.dir.starts_with("/usr/lib/postgresql")
            && share(b.version.major)
                .join("extension/londiste.control")
                .is_file()
    }) else {
        skipped(
            "a package of the extensions pgq, pgq_node and londiste (Debian: postgresql-15-londiste-sql)",
        );
        return None;
    };
    let options = Options {
        major: Some(found.version.major),
        ..Options::default()
    };
    Some(Server::start(options).await.unwrap())
}

fn share(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/share/postgresql/{major}"))
}

/// The modules as plain scripts, for databases without extensions.
pub fn script(server: &Server, module: &str) -> String {
    let path = share(server.version().major).join(format!("contrib/{module}.sql"));
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

pub async fn create_extensions(server: &Server, database: &str) {
    let client = server.connect(database).await.unwrap();
    for extension in EXTENSIONS {
        client
            .batch_execute(&format!("create extension {extension}"))
            .await
            .unwrap();
    }
}

/// Whether a program is there.
pub fn has_program(path: &str) -> bool {
    let there = Path::new(path).is_file();
    if !there {
        skipped(path);
    }
    there
}

/// Whether Debian's Python has a package.
pub fn has_python(package: &str) -> bool {
    let there = Command::new(PYTHON)
        .args(["-c", &format!("import {package}")])
        .output()
        .is_ok_and(|out| out.status.success());
    if !there {
        skipped(&format!("Python package {package}"));
    }
    there
}

/// A directory that the server's user can write to as well.
pub fn shared_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    directory
}
