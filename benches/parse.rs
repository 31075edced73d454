//! Reading a Dockerfile: text to typed stages, stages to a graph, words to text; the time of one, and statements a second.
//!
//! All of it happens in every build, cached or not: a usual file must stay under a millisecond, and one of a thousand
//! statements (generated ones exist) must cost no more a statement.

use std::path::Path;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use strata::dockerfile::{self, Dockerfile, words};
use strata::oci::{Descriptor, DiffId, Digest, ImageConfig, MediaType, Platform, Reference};
use strata::plan::{Options, Resolve, ResolveError, ResolvedImage, lower};

/// Two stages with most of what a service's Dockerfile has.
const USUAL: &str = r#"# syntax=docker/dockerfile:1
ARG NODE=20
FROM node:${NODE}-bookworm AS build
ARG TARGETARCH VERSION=dev
ENV NODE_ENV=production PATH=/opt/bin:$PATH
WORKDIR /app
COPY --link package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm,sharing=locked \
    --mount=type=secret,id=npmrc,target=/root/.npmrc \
    npm ci --omit=dev \
 && npm cache clean --force
COPY . .
RUN <<EOF
set -eu
npm run build -- --arch "$TARGETARCH" --version "${VERSION#v}"
EOF
FROM node:${NODE}-bookworm-slim
LABEL org.opencontainers.image.version="${VERSION:-none}" \
      org.opencontainers.image.title='a service'
RUN groupadd -r app && useradd -r -g app app
WORKDIR /srv
COPY --from=build --chown=app:app /app/dist ./dist
COPY --from=build --chmod=0755 /app/entrypoint.sh /usr/local/bin/
ENV PORT=8080
EXPOSE $PORT/tcp
USER app
HEALTHCHECK --interval=30s --timeout=3s CMD ["curl", "-f", "http://localhost:8080/"]
STOPSIGNAL SIGINT
ENTRYPOINT ["entrypoint.sh"]
CMD ["node", "dist/main.js"]
"#;

/// As many RUNs as one needs to see what each costs.
fn long() -> String {
    let run = |n| format!("ENV N{n}=\"${{N{n}:-{n}}}\"\nRUN echo $N{n} && test -n \"{n}\"\n");
    let first = "FROM node:20\n".to_owned();
    std::iter::once(first).chain((0..500).map(run)).collect()
}

fn text(which: &str) -> String {
    match which {
        "usual" => USUAL.to_owned(),
        _ => long(),
    }
}

fn parsed(text: &str) -> Dockerfile {
    dockerfile::parse(text).expect("it parses").dockerfile
}

fn statements(dockerfile: &Dockerfile) -> usize {
    let stages = dockerfile.stages.iter();
    stages.map(|stage| 1 + stage.instructions.len()).sum()
}

/// Knows every image: a shell on one layer.
struct Anything;

impl Resolve for Anything {
    fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        let mut config = ImageConfig::scratch(platform);
        config.rootfs.diff_ids = vec![DiffId(Digest::of(b"layer"))];
        Ok(ResolvedImage {
            name: reference.to_string(),
            manifest: Descriptor::of(MediaType::OciManifest, b"manifest"),
            config,
            layers: vec![Descriptor::of(MediaType::OciLayerGzip, b"layer")],
        })
    }

    fn layout(
        &self,
        path: &Path,
        _: Option<&str>,
        _: &Platform,
    ) -> Result<ResolvedImage, ResolveError> {
        Err(ResolveError {
            name: path.display().to_string(),
            hint: None,
            source: "no bench asks for it".into(),
        })
    }
}

fn main() {
    divan::main();
}

#[divan::bench(args = ["usual", "long"])]
fn parse(bencher: Bencher, which: &str) {
    let text = text(which);
    bencher
        .counter(BytesCount::of_str(&text))
        .counter(ItemsCount::new(statements(&parsed(&text))))
        .bench_local(|| dockerfile::parse(&text).is_ok());
}

#[divan::bench(args = ["usual", "long"])]
fn plan(bencher: Bencher, which: &str) {
    let dockerfile = parsed(&text(which));
    let options = Options {
        dockerfile_name: "Dockerfile".to_owned(),
        ..Options::default()
    };
    bencher
        .counter(ItemsCount::new(statements(&dockerfile)))
        .bench_local(|| lower(&dockerfile, &options, &Anything).expect("a graph"));
}

#[divan::bench(args = ["plain", "\"${A:-default}\"/$B/'$C'", "${V#v*.}-${V//./_}"])]
fn word(word: &str) -> String {
    let mut lookup = |name: &str| (name != "A").then(|| "v1.22.333".to_owned());
    words::expand(word, '\\', &mut lookup).expect("a word")
}
