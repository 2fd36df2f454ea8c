//! Finds out which protocol a server has, which model to measure, and what requests for the images look like.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use onnx_export::text::{cut, printable};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sightline::config::redacted;
use sightline::store::ModelRef;

use super::super::images::Image;
use super::tensor::{Input, ModelMetadata};

/// Longest time of a request about a server.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a response about a server.
const MAX_BYTES: u64 = 16 << 20;
/// Most characters of a text of a server that are shown.
const SHOWN: usize = 64;
/// Most models whose inputs are read to find one that accepts images.
const MAX_MODELS: usize = 32;

/// The protocols that servers are measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Sightline's own API.
    V1,
    /// The Open Inference Protocol over HTTP.
    OpenInference,
}

impl Protocol {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "/v1",
            Self::OpenInference => "/v2",
        }
    }
}

/// A server to measure.
#[derive(Debug)]
pub(super) struct Contender {
    /// URL to which requests are posted.
    pub(super) url: String,
    pub(super) protocol: Protocol,
    /// Name and version of the server.
    pub(super) server: String,
    pub(super) model: String,
    /// Short name for charts.
    pub(super) title: String,
    /// The requests.
    pub(super) images: Vec<Image>,
}

/// Sends requests about servers.
pub(super) struct Asker<'a> {
    agent: ureq::Agent,
    api_key: Option<&'a str>,
}

/// A served model in the response of `/v1/models`.
#[derive(Deserialize)]
struct V1Model {
    name: String,
    variant: String,
    route: String,
    #[serde(default)]
    default: bool,
}

#[derive(Deserialize)]
struct V1Models {
    models: Vec<V1Model>,
}

/// The response of `/v2`.
#[derive(Deserialize)]
struct ServerMetadata {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    extensions: Vec<String>,
}

/// A model in the response of `/v2/repository/index`.
#[derive(Deserialize)]
struct Indexed {
    name: String,
    #[serde(default)]
    state: Option<String>,
}

impl<'a> Asker<'a> {
    /// Returns an asker that sends `api_key` to every server.
    pub(super) fn new(api_key: Option<&'a str>) -> Self {
        let config = ureq::Agent::config_builder().proxy(None);
        let config = config.http_status_as_error(false).max_redirects(0);
        let agent = config.timeout_global(Some(TIMEOUT)).build().into();
        Self { agent, api_key }
    }

    /// Finds out how to send `images` to the model `model` at `url`: the URL of a server, of a task under `/v1`, or of a
    /// model under `/v2/models`. Without `model`, the server's default model of classification or its first model that
    /// accepts images is used.
    ///
    /// # Errors
    /// If the server does not respond as either protocol requires, or has no such model.
    pub(super) fn ask(
        &self,
        url: &str,
        model: Option<&ModelRef>,
        images: &[Image],
    ) -> Result<Contender> {
        let url = url.trim_end_matches('/');
        let what = || format!("cannot measure {}", redacted(url));
        if let Some((base, rest)) = url.split_once("/v2/models/") {
            let name = rest.trim_end_matches("/infer");
            return self
                .open_inference(base, Some(name), images)
                .with_context(what);
        }
        if url.contains("/v1/") {
            return Ok(Contender {
                url: url.to_owned(),
                protocol: Protocol::V1,
                server: "as given".to_owned(),
                model: "default".to_owned(),
                title: title(url, None),
                images: images.to_vec(),
            });
        }
        let own = self.get::<V1Models>(&format!("{url}/v1/models"));
        let other = match own {
            Ok(own) => return v1(url, &own.models, model, images).with_context(what),
            Err(error) => error,
        };
        let name = model.map(|model| model.name.as_str());
        self.open_inference(url, name, images)
            .with_context(|| format!("without /v1 ({other:#})"))
            .with_context(what)
    }

    /// Finds out how to send `images` to the model called `model` of the Open Inference Protocol's server at `base`.
    fn open_inference(
        &self,
        base: &str,
        model: Option<&str>,
        images: &[Image],
    ) -> Result<Contender> {
        let server: ServerMetadata = self.get(&format!("{base}/v2"))?;
        let is_binary = server.extensions.iter().any(|e| e == "binary_tensor_data");
        let names = match model {
            Some(name) => vec![name.to_owned()],
            None => self.models(base)?,
        };
        let mut last = None;
        for name in names.iter().take(MAX_MODELS) {
            let input = self.input(base, name);
            match input.and_then(|input| input.requests(images, is_binary)) {
                Ok(images) => {
                    return Ok(Contender {
                        url: format!("{base}/v2/models/{name}/infer"),
                        protocol: Protocol::OpenInference,
                        server: shown(&format!("{} {}", server.name, server.version)),
                        model: shown(name),
                        title: title(base, Some(name)),
                        images,
                    });
                }
                Err(error) => last = Some(error.context(format!("model `{}`", shown(name)))),
            }
        }
        match last {
            Some(error) => Err(error),
            None => bail!("the server has no model that is ready; name one with --model"),
        }
    }

    /// Returns the names of the models that are ready.
    fn models(&self, base: &str) -> Result<Vec<String>> {
        let url = format!("{base}/v2/repository/index");
        let request = self.agent.post(&url);
        let request = request.header("content-type", "application/json");
        let response = self.with_key(request).send(&b"{}"[..]);
        let index: Vec<Indexed> = read(&url, response).with_context(
            || "the server does not list its models: name one with --model or in the URL",
        )?;
        let is_ready = |state: &Option<String>| state.as_ref().is_none_or(|s| s == "READY");
        let ready = index.into_iter().filter(|model| is_ready(&model.state));
        let mut names: Vec<String> = ready.map(|model| model.name).collect();
        names.dedup();
        Ok(names)
    }

    fn input(&self, base: &str, name: &str) -> Result<Input> {
        let metadata: ModelMetadata = self.get(&format!("{base}/v2/models/{name}"))?;
        Input::of(&metadata)
    }

    fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T> {
        let request = self.agent.get(url);
        read(url, self.with_key(request).call())
    }

    fn with_key<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match self.api_key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }
}

/// Parses a response about a server.
fn read<T: DeserializeOwned>(
    url: &str,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T> {
    let url = redacted(url).into_owned();
    let mut response = response.with_context(|| format!("{url} does not respond"))?;
    let status = response.status().as_u16();
    if status != 200 {
        bail!("{url}: status {status}");
    }
    let body = response.body_mut().with_config().limit(MAX_BYTES);
    let text = body
        .read_to_vec()
        .with_context(|| format!("cannot read the response of {url}"))?;
    let parsed = serde_json::from_slice(&text);
    parsed.with_context(|| format!("{url}: the response is not that of the protocol"))
}

/// Chooses one of the `models` of a Sightline server.
fn v1(
    base: &str,
    models: &[V1Model],
    model: Option<&ModelRef>,
    images: &[Image],
) -> Result<Contender> {
    let fits = |served: &&V1Model| match model {
        Some(model) => {
            let variant = model.variant.as_ref();
            served.name == model.name && variant.is_none_or(|name| *name == served.variant)
        }
        None => served.default,
    };
    let mut candidates: Vec<&V1Model> = models.iter().filter(fits).collect();
    candidates.sort_by_key(|served| (!served.default, served.route != "/v1/classify"));
    let Some(served) = candidates.first() else {
        let served = models
            .iter()
            .map(|model| format!("{}@{}", model.name, model.variant));
        let served: Vec<String> = served.collect();
        bail!(
            "the server has no such model, only {}",
            cut(&served.join(", "), 400)
        );
    };
    let id = format!("{}@{}", served.name, served.variant);
    let route = &served.route;
    Ok(Contender {
        url: format!("{base}{route}?model={id}"),
        protocol: Protocol::V1,
        server: "Sightline".to_owned(),
        title: title(base, Some(&id)),
        model: shown(&id),
        images: images.to_vec(),
    })
}

/// Returns a short name: the address of `url` without the scheme and credentials, and the model.
fn title(url: &str, model: Option<&str>) -> String {
    let shown_url = redacted(url);
    let address = shown_url.split_once("://").map_or(&*shown_url, |(_, a)| a);
    let model = model.map_or(String::new(), |model| format!(" {model}"));
    shown(&format!("{address}{model}"))
}

/// Returns a text of a server for a line of the output.
fn shown(text: &str) -> String {
    printable(cut(text.trim(), SHOWN), &[]).into_owned()
}

/// Returns a request with the tensor `tensor` behind the JSON `head`.
pub(super) fn with_tensor(name: &str, head: &[u8], tensor: &[u8]) -> Image {
    Image {
        name: name.to_owned(),
        content: Bytes::from([head, tensor].concat()),
        json_bytes: Some(head.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, variant: &str, route: &str, default: bool) -> V1Model {
        V1Model {
            name: name.to_owned(),
            variant: variant.to_owned(),
            route: route.to_owned(),
            default,
        }
    }

    #[test]
    fn the_default_model_of_classification_or_the_named_one_is_chosen() {
        let models = [
            model("s", "fp32", "/v1/segment", true),
            model("a", "int8", "/v1/classify", false),
            model("a", "fp32", "/v1/classify", true),
        ];
        let url = |name: Option<&str>| {
            let name: Option<ModelRef> = name.map(|name| name.parse().unwrap());
            let found = v1("http://h", &models, name.as_ref(), &[]);
            found.map(|found| found.url).map_err(|e| e.to_string())
        };
        assert_eq!(url(None).unwrap(), "http://h/v1/classify?model=a@fp32");
        assert_eq!(url(Some("a")).unwrap(), "http://h/v1/classify?model=a@fp32");
        assert_eq!(
            url(Some("a@int8")).unwrap(),
            "http://h/v1/classify?model=a@int8"
        );
        assert_eq!(url(Some("s")).unwrap(), "http://h/v1/segment?model=s@fp32");
        let error = url(Some("b")).unwrap_err();
        assert!(error.contains("only s@fp32, a@int8"), "{error}");
    }

    #[test]
    fn titles_have_neither_schemes_nor_credentials() {
        let title = title("http://user:secret@h:1/", Some("a\nb"));
        assert!(
            !title.contains("secret") && !title.contains('\n'),
            "{title}"
        );
    }
}
