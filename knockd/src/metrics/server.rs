//! Speaks HTTP/1.1, as little of it as there is to say: `GET /metrics`, one request for each connection.

use std::{
    convert::Infallible,
    fs, io,
    net::TcpListener as StdTcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixListener as StdUnixListener},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Mutex, Semaphore, mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tracing::error;

use super::{Asked, State, page};
use crate::{
    config::metrics::Endpoint,
    control::{
        look_up::look_up,
        server::{give_to_the_group, remove_what_nobody_listens_at},
    },
};

/// Connections that are served at once.
pub const CONNECTIONS: usize = 8;
/// How long one is served at most.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a reader may take to say what it wants.
const HEADER_PATIENCE: Duration = Duration::from_secs(2);
/// Longest request in bytes: hyper takes no less.
pub const HEADER_MAX: usize = 8192;
/// Most lines of a request's header.
const HEADERS: usize = 64;
/// How old figures may be: no more is asked of the event loop, however often they are fetched.
const FRESH: Duration = Duration::from_secs(1);
/// How long the event loop may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long to wait after a failure to accept, so that a lasting one doesn't take a whole core.
const AFTER_A_FAILED_ACCEPT: Duration = Duration::from_millis(100);
/// How long after a failure to listen it is tried again: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(1);
const STACK: usize = 512 * 1024;

const PATH: &str = "/metrics";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Listens, and serves whoever connects on a thread of its own; what it asks for figures comes out of the channel.
/// Where that isn't possible it is tried again, for as long as it takes: `state` says why meanwhile.
///
/// # Errors
/// If there can be no thread.
pub(super) fn start(endpoint: Endpoint, state: State) -> io::Result<mpsc::Receiver<Asked>> {
    let listening = Listening::at(&endpoint);
    let (sender, asked) = mpsc::channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()?;
    thread::Builder::new().name("metrics".to_owned()).stack_size(STACK).spawn(move || {
        runtime.block_on(async {
            let source = Arc::new(Source { sender: sender.clone(), made: Mutex::new(None) });
            tokio::select! {
                // The daemon has ended, or tells figures elsewhere from now on.
                () = sender.closed() => {}
                never = keep_serving(&endpoint, listening, source, state) => match never {},
            }
        });
    })?;
    Ok(asked)
}

/// Serves, and begins again where that ends.
async fn keep_serving(
    endpoint: &Endpoint,
    mut listening: io::Result<Listening>,
    source: Arc<Source>,
    state: State,
) -> Infallible {
    let mut pause = FIRST_RETRY;
    loop {
        let error = match listening {
            Ok(listening) => {
                pause = FIRST_RETRY;
                state.works();
                let Err(error) = listening.serve(Arc::clone(&source)).await;
                error
            }
            Err(error) => error,
        };
        state.fails(endpoint, &error);
        sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
        listening = Listening::at(endpoint);
    }
}

/// Where readers come in.
enum Listening {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

impl Listening {
    fn at(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(match endpoint {
            Endpoint::Tcp(address) => {
                let listener = StdTcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Self::Tcp(listener)
            }
            Endpoint::Unix(path) => Self::Unix(socket(path)?),
        })
    }

    async fn serve(self, source: Arc<Source>) -> io::Result<Infallible> {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        match self {
            Self::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let place = Arc::clone(&places).acquire_owned().await;
                    match listener.accept().await {
                        Ok((stream, _)) => serve(stream, Arc::clone(&source), place),
                        Err(_) => sleep(AFTER_A_FAILED_ACCEPT).await,
                    }
                }
            }
            Self::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                loop {
                    let place = Arc::clone(&places).acquire_owned().await;
                    match listener.accept().await {
                        Ok((stream, _)) => serve(stream, Arc::clone(&source), place),
                        Err(_) => sleep(AFTER_A_FAILED_ACCEPT).await,
                    }
                }
            }
        }
    }
}

/// A socket for root and the group.
fn socket(path: &Path) -> io::Result<StdUnixListener> {
    remove_what_nobody_listens_at(path)?;
    let listener = StdUnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    give_to_the_group(path);
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves a connection, and keeps its place for as long as that takes.
fn serve<S, P>(stream: S, source: Arc<Source>, place: P)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Send + 'static,
{
    tokio::spawn(async move {
        let answer = service_fn(|request: Request<Incoming>| {
            let source = Arc::clone(&source);
            async move { Ok::<_, Infallible>(source.answer(&request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_PATIENCE)
            .keep_alive(false)
            .max_buf_size(HEADER_MAX)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), answer);
        // One who is too slow, or gone, or speaks something else, has no answer.
        let _ = timeout(PATIENCE, connection).await;
        drop(place);
    });
}

/// Where figures come from.
struct Source {
    sender: mpsc::Sender<Asked>,
    made: Mutex<Option<Made>>,
}

/// Pages, and when they were made.
#[derive(Clone)]
struct Made {
    at: Instant,
    pages: page::Pages,
}

impl Source {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return said(StatusCode::NOT_FOUND, "figures are at /metrics\n");
        }
        if request.method() != Method::GET {
            let mut response =
                said(StatusCode::METHOD_NOT_ALLOWED, "figures can be fetched by GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        let Some(pages) = self.pages().await else {
            return said(StatusCode::SERVICE_UNAVAILABLE, "the daemon doesn't tell its figures\n");
        };
        let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|it| it.to_str().ok());
        let (content_type, page) = pages.wanted(accepted);
        let mut response = Response::new(Full::new(page));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    /// The pages; made anew if they aren't fresh, by one reader while the others wait.
    async fn pages(&self) -> Option<page::Pages> {
        let mut made = self.made.lock().await;
        if let Some(made) = made.as_ref().filter(|made| made.at.elapsed() < FRESH) {
            return Some(made.pages.clone());
        }
        let (asked, answer) = oneshot::channel();
        let mut figures = timeout(ANSWER, async {
            self.sender.send(asked).await.ok()?;
            answer.await.ok()
        })
        .await
        .ok()??;
        let pages = spawn_blocking(move || {
            look_up(&mut figures.status);
            page::write(figures)
        });
        let pages = match pages.await.map_err(io::Error::other).and_then(|pages| pages) {
            Ok(pages) => pages,
            Err(error) => {
                error!(event = "metrics-failed", "figures can't be written: {error}");
                return None;
            }
        };
        *made = Some(Made { at: Instant::now(), pages: pages.clone() });
        Some(pages)
    }
}

fn said(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PLAIN));
    response
}
