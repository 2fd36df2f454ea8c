//! Checks of what the server needs: ONNX Runtime, models, free addresses.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use sightline::config::{ListenAddress, resolve};
use sightline::engine::{OnnxRuntime, find_library};
use sightline::error::explain;
use sightline::http::unix;

use super::Check;
use crate::cli::probe::{Endpoint, Health};
use crate::cli::{RuntimeArgs, StoreArgs};

/// Maximum time to wait for the response of a server that uses an address.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Finds and loads the library of ONNX Runtime.
pub(super) fn onnx_runtime(args: &RuntimeArgs) -> Check {
    let library = match find_library(args.onnxruntime.as_deref()) {
        Ok(library) => library,
        Err(error) => {
            return Check::failure(
                "onnxruntime",
                explain(&error),
                "install ONNX Runtime as the lines above say",
            );
        }
    };
    match OnnxRuntime::load(&library) {
        Ok(runtime) => Check::ok("onnxruntime", runtime.library().display().to_string()),
        Err(error) => Check::failure(
            "onnxruntime",
            explain(&error),
            "replace this library, or name another with --onnxruntime",
        ),
    }
}

/// Reads the models directory as `serve` does.
pub(super) fn models(args: &StoreArgs) -> Check {
    let store = args.store();
    match store.served() {
        Err(error) => Check::failure(
            "models",
            explain(&error),
            "correct or remove the entries that the error names",
        ),
        Ok(models) => {
            let names: Vec<&str> = models
                .iter()
                .map(|model| model.manifest.name.as_str())
                .collect();
            let place = store
                .directory()
                .filter(|_| models.iter().any(|model| model.path.is_some()));
            let place = place.map_or_else(
                || "built in".to_owned(),
                |path| format!("{} in {}", names.len(), path.display()),
            );
            Check::ok("models", format!("{place}: {}", names.join(", ")))
        }
    }
}

/// Checks that the server can listen on `address`.
pub(super) fn address(address: &ListenAddress) -> Check {
    match address {
        ListenAddress::Unix(path) => socket(address, path.as_path()),
        ListenAddress::Ip(ip) => tcp(address, &[*ip]),
        ListenAddress::Name { host, port } => match resolve(host, *port) {
            Ok(addresses) => tcp(address, &addresses),
            Err(error) => Check::failure(
                "address",
                format!("cannot resolve {address}: {error}"),
                "correct --listen or the name service",
            ),
        },
    }
}

/// Checks that the server can make the socket `path` of `address`.
fn socket(address: &ListenAddress, path: &Path) -> Check {
    // The queue of a busy server is full.
    let is_busy = |error: &Error| error.kind() == ErrorKind::WouldBlock;
    let connected = unix::connect(path);
    if connected.is_ok() || connected.is_err_and(|error| is_busy(&error)) {
        return in_use(address);
    }
    let reason = match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => None,
        Ok(_) => Some("the path exists and is not a socket".to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(error.to_string()),
    };
    match reason.or_else(|| unwritable(path)) {
        None => Check::ok("address", format!("{address} is not in use")),
        Some(reason) => Check::failure(
            "address",
            format!("cannot listen on {address}: {reason}"),
            "correct the path or its folder, or choose another address with --listen",
        ),
    }
}

/// Returns why this process cannot make a file in the folder of `path`. `None` if it can.
fn unwritable(path: &Path) -> Option<String> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let access = Access::WRITE_OK | Access::EXEC_OK;
    let error = accessat(CWD, folder, access, AtFlags::EACCESS).err()?;
    Some(format!(
        "the folder {} cannot be used: {}",
        folder.display(),
        Error::from(error)
    ))
}

/// Binds the first of the IP addresses `ips` of `address` that this machine has, as the server does.
fn tcp(address: &ListenAddress, ips: &[SocketAddr]) -> Check {
    let mut last = None;
    for ip in ips {
        match TcpListener::bind(ip) {
            Ok(_) => return Check::ok("address", format!("{ip} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse => return in_use(address),
            Err(error) => last = Some(error),
        }
    }
    let reason = last.map_or_else(|| "no IP address".to_owned(), |error| error.to_string());
    Check::failure(
        "address",
        format!("cannot listen on {address}: {reason}"),
        "choose another address with --listen",
    )
}

/// Returns the result for an address that a program uses.
fn in_use(address: &ListenAddress) -> Check {
    let identity = |scheme| {
        Health::request(
            &Endpoint::at(address, scheme),
            "/health/live",
            PROBE_TIMEOUT,
        )
        .ok()?
        .identity()
    };
    match identity("http").or_else(|| identity("https")) {
        Some(server) => Check::failure(
            "address",
            format!("{address} is in use by another Sightline ({server})"),
            "stop it before another one starts, or choose another address with --listen",
        ),
        None => Check::failure(
            "address",
            format!("{address} is in use by another program"),
            "stop it, or choose another address with --listen",
        ),
    }
}
