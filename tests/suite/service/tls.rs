//! Checks the server with TLS: protocols, clients without TLS, client certificates, errors at start, and the replacement
//! of the certificate under load.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::tls::{Authority, Pair, connect};
use crate::common::{PATIENCE, Server, SetOnDrop, eventually, photo, run, sightline};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ALL: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: example:1\r\nconnection: close\r\n\r\n";

fn start(authority: &Authority, more: &[&str]) -> Server {
    let flags = authority.flags();
    let flags: Vec<&str> = flags
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    Server::start(&flags)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.unwrap() })
}

/// Sends `GET /` by HTTP/1.1 on a new connection, and returns the response and the server's certificate.
async fn get(server: &Server, config: ClientConfig) -> std::io::Result<(String, Vec<u8>)> {
    let mut stream = connect(server.address, config).await?;
    stream.write_all(GET).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((response, certificate))
}

#[test]
fn tls_serves_http_1_and_http_2_in_both_versions() {
    let authority = Authority::new();
    let server = start(&authority, &[]);
    for versions in [[&TLS12], [&TLS13]] {
        let config = authority.config(&versions, &[], None);
        let (response, _) = block_on(get(&server, config)).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
        assert!(
            response.contains("https://example:1/v1/classify"),
            "{response}"
        );
        // The client's order of the protocols does not matter.
        for (offer, expected) in [(&["http/1.1", "h2"][..], "h2"), (&["http/1.1"], "http/1.1")] {
            let config = authority.config(&versions, offer, None);
            let stream = block_on(connect(server.address, config)).unwrap();
            let protocol = stream.get_ref().1.alpn_protocol();
            assert_eq!(protocol, Some(expected.as_bytes()));
        }
    }
    let coffee = photo("coffee_500x375.jpg");
    assert_eq!(server.classify("?top_k=1", &coffee).labels(), ["espresso"]);
    block_on(async {
        let config = authority.config(ALL, &["h2"], None);
        let stream = connect(server.address, config).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = ureq::http::Request::post("https://x/v1/classify?top_k=1")
            .body(())
            .unwrap();
        let (response, mut body) = send.send_request(request, false).unwrap();
        body.send_data(coffee.into(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers().contains_key("x-request-id"));
    });
    assert!(server.metric("sightline_tls_certificate_expiry_timestamp_seconds") > 1e9);
    assert_eq!(
        server.metric("sightline_tls_reloads_total{result=\"failure\"}"),
        0.0
    );
}

/// Asks by gRPC whether the server lives. Returns the body of the response, and the message with which it is rejected.
async fn live<S>(stream: S, scheme: &str) -> (Vec<u8>, Option<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let path = format!("{scheme}://x/inference.GRPCInferenceService/ServerLive");
    let request = ureq::http::Request::post(path)
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut body) = send.send_request(request, false).unwrap();
    body.send_data(vec![0_u8; 5].into(), true).unwrap();
    let response = response.await.unwrap();
    let rejected = response.headers().get("grpc-message").cloned();
    let mut body = response.into_body();
    let mut received = Vec::new();
    while let Some(data) = body.data().await {
        received.extend(data.unwrap());
    }
    (
        received,
        rejected.map(|text| text.to_str().unwrap().to_owned()),
    )
}

#[test]
fn grpc_is_served_over_tls_and_not_without() {
    let authority = Authority::new();
    let server = start(&authority, &["--grpc-listen", "127.0.0.1:0"]);
    let printed = server.printed("gRPC on ");
    let address = printed.strip_suffix(" with TLS").unwrap();
    let address: std::net::SocketAddr = address.parse().unwrap();
    block_on(async {
        let config = authority.config(ALL, &["h2"], None);
        let stream = connect(address, config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        // `live`, field 1, is true.
        assert_eq!(
            live(stream, "https").await,
            (vec![0, 0, 0, 0, 2, 8, 1], None)
        );
        let plain = tokio::net::TcpStream::connect(address).await.unwrap();
        let (received, rejected) = live(plain, "http").await;
        assert_eq!(received, b"");
        assert!(rejected.unwrap().contains("TLS"));
    });
}

#[test]
fn clients_without_tls_get_a_response_that_says_so() {
    let authority = Authority::new();
    let server = start(&authority, &[]);
    let body = vec![b'x'; 1 << 20];
    let post = [
        b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n",
        &body[..],
    ]
    .concat();
    for request in [GET, &post] {
        let mut stream = server.connect();
        stream.write_all(request).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
        assert!(
            response.contains("\"https_required\"") && response.contains("use https://"),
            "{response}"
        );
    }
    let url = format!("http://{}", server.address);
    let (code, _, error) = run(&["healthcheck", "--url", &url]);
    assert_eq!(code, Some(1));
    assert!(error.contains("use https://"), "{error}");
    let listen = server.address.to_string();
    let cert = authority.path("tls.crt");
    let (code, text, error) = run(&[
        "healthcheck",
        "--listen",
        &listen,
        "--tls-cert",
        cert.to_str().unwrap(),
    ]);
    assert_eq!(code, Some(0), "{error}");
    assert!(
        text.starts_with(&format!("ready https://{listen}, version ")),
        "{text}"
    );
}

#[test]
fn tls_to_a_plain_port_is_logged() {
    let server = Server::start(&[]);
    let authority = Authority::new();
    for _ in 0..3 {
        assert!(block_on(connect(server.address, authority.config(ALL, &[], None))).is_err());
    }
    server.printed("TLS handshake on a listener without TLS");
}

#[test]
fn broken_and_unfinished_handshakes_keep_nobody_out() {
    let authority = Authority::new();
    let server = start(&authority, &["--max-connections", "8"]);
    let starts: [&[u8]; 6] = [
        b"",
        // A record that announces more than it holds, one that is too long, an alert, an unknown version, no TLS.
        &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        &[22, 3, 1, 0xff, 0xff, 1],
        &[21, 3, 1, 0, 2, 2, 40],
        &[22, 9, 9, 0, 1, 0],
        &[0, 1, 2, 3],
    ];
    let open = |start: &&[u8]| {
        let mut stream = server.connect();
        stream.write_all(start).unwrap();
        stream
    };
    let _held: Vec<TcpStream> = starts.iter().cycle().take(60).map(open).collect();
    let (response, _) = block_on(get(&server, authority.config(ALL, &[], None))).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

#[test]
fn clients_need_a_certificate_of_the_authority_if_there_is_one() {
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = authority.path("ca.crt");
    let server = Server::launch(
        &[
            &authority
                .flags()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()[..],
            &[
                "--tls-client-ca",
                ca.to_str().unwrap(),
                "--admin-listen",
                "127.0.0.1:0",
            ],
        ]
        .concat(),
    );
    let admin = server.printed("health and metrics on http://");
    let (code, _, error) = run(&["healthcheck", "--url", &format!("http://{admin}")]);
    assert!(matches!(code, Some(0 | 1)), "{error}");
    for (own, accepted) in [
        (Some(authority.client()), true),
        (Some(other.client()), false),
        (None, false),
    ] {
        for versions in [[&TLS12], [&TLS13]] {
            let config = authority.config(&versions, &[], own.as_ref());
            let result = block_on(get(&server, config));
            assert_eq!(
                result.is_ok_and(|(response, _)| response.contains(" 200 ")),
                accepted
            );
        }
    }
}

/// What is done before, flags, and a part of the message.
type Case<'a> = (&'a dyn Fn(), &'a [&'a str], &'a str);

#[test]
fn unusable_files_stop_the_start_with_a_message() {
    let authority = Authority::new();
    let (cert, key) = (authority.path("tls.crt"), authority.path("tls.key"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let cases: [Case<'_>; 6] = [
        (
            &|| {},
            &["--tls-cert", cert],
            "`tls_key`: expected the private key of `tls_cert`, got no value",
        ),
        (
            &|| {},
            &["--tls-key", key],
            "`tls_cert`: expected the certificate of `tls_key`, got no value",
        ),
        (
            &|| {},
            &["--tls-client-ca", cert],
            "`tls_cert`: expected a certificate, because",
        ),
        (
            &|| authority.replace(&authority.expired()),
            &["--tls-cert", cert, "--tls-key", key],
            "expired on Mon, 01 Jan 2001",
        ),
        (
            &|| {
                authority.replace(&Pair {
                    key: authority.server().key,
                    ..authority.server()
                });
            },
            &["--tls-cert", cert, "--tls-key", key],
            "does not belong to the certificate",
        ),
        (
            &|| {},
            &["--tls-cert", "/nowhere", "--tls-key", key],
            "/nowhere",
        ),
    ];
    for (prepare, flags, expected) in cases {
        prepare();
        let (code, _, error) = run(&[&["serve", "--listen", "127.0.0.1:0"], flags].concat());
        assert_eq!(code, Some(64), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_certificate_is_replaced_under_load_without_a_failed_request() {
    let authority = Authority::new();
    let server = start(&authority, &[]);
    let (stop, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let serving = || {
        let (_, certificate) = block_on(get(&server, authority.config(ALL, &[], None))).unwrap();
        certificate
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // A new connection for each request.
                    let (response, _) =
                        block_on(get(&server, authority.config(ALL, &[], None))).unwrap();
                    assert!(response.contains(" 200 "), "{response}");
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            // One connection for all requests.
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(server.get("/health/live").status, 200);
                requests.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = SetOnDrop(&stop);
        let first = serving();
        // The key follows seconds after its certificate.
        let second = authority.server();
        authority.write("tls.crt", &second.cert);
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(serving(), first);
        authority.write("tls.key", &second.key);
        eventually("the second certificate is in use", || serving() != first);
        let second = serving();
        // An expired certificate, and an empty one, change nothing.
        authority.replace(&authority.expired());
        server.printed("cannot replace the TLS certificate");
        authority.write("tls.crt", "");
        eventually("both failures are counted", || {
            server.metric("sightline_tls_reloads_total{result=\"failure\"}") >= 2.0
        });
        assert_eq!(serving(), second);
        authority.replace(&authority.server());
        eventually("the third certificate is in use", || serving() != second);
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} requests", requests.load(Ordering::Relaxed));
    assert!(requests.load(Ordering::Relaxed) > 100);
    assert_eq!(
        server.metric("sightline_tls_reloads_total{result=\"success\"}"),
        2.0
    );
}

/// Runs curl and returns its output. `None` if there is no curl.
fn curl(args: &[&str]) -> Option<String> {
    let args = [
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "60",
    ]
    .iter()
    .chain(args);
    let Ok(output) = Command::new("curl").args(args).output() else {
        return None;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn keys_of_openssl_work_with_curl() {
    let openssl = |args: &str, folder: &std::path::Path| {
        let mut command = Command::new("openssl");
        let done = command.args(args.split(' ')).current_dir(folder).output();
        done.is_ok_and(|output| output.status.success())
    };
    let authority = Authority::new();
    let folder = authority.folder.path();
    let rsa = "genrsa -traditional -out tls.key 2048";
    if !openssl(rsa, folder) {
        println!("skipped: no openssl");
        return;
    }
    // PKCS#1, SEC1 and PKCS#8, in this order.
    for key in [
        rsa,
        "ecparam -name prime256v1 -genkey -noout -out tls.key",
        "genpkey -algorithm RSA -out tls.key",
    ] {
        assert!(openssl(key, folder), "{key}");
        assert!(openssl(
            "req -x509 -key tls.key -out tls.crt -subj /CN=x -addext subjectAltName=IP:127.0.0.1 -days 2",
            folder
        ));
        let server = start(&authority, &[]);
        let cert = authority.path("tls.crt");
        for protocol in ["--http1.1", "--http2"] {
            let url = server.url("/health/ready");
            let args = [
                protocol,
                "--cacert",
                cert.to_str().unwrap(),
                "--write-out",
                "\n%{http_version}",
                &url,
            ];
            let Some(text) = curl(&args) else {
                println!("skipped: no curl");
                return;
            };
            assert!(text.contains("\"ready\""), "{text}");
            let version = if protocol == "--http2" {
                "\n2"
            } else {
                "\n1.1"
            };
            assert!(text.ends_with(version), "{text}");
        }
    }
}

#[test]
fn encrypted_keys_are_errors() {
    let authority = Authority::new();
    let mut command = Command::new("openssl");
    let done = command
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-aes256",
            "-pass",
            "pass:x",
            "-out",
            "tls.key",
        ])
        .current_dir(authority.folder.path())
        .output();
    if !done.is_ok_and(|output| output.status.success()) {
        println!("skipped: no openssl");
        return;
    }
    let output = sightline(&["serve", "--listen", "127.0.0.1:0"])
        .args(authority.flags())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(
        error.contains("the private key is encrypted; decrypt it"),
        "{error}"
    );
}
