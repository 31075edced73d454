//! The base images that cases build from, made from Debian's static busybox and kept in memory.
//!
//! | repository | what it is for |
//! |---|---|
//! | `busybox` | the ordinary base: a shell, users, groups |
//! | `docker-v2` | docker's media types instead of OCI's |
//! | `plain-layer` | a layer without compression; no shell |
//! | `onbuild`, `onbuild-from` | triggers; the second copies from another stage |
//! | `config` | every setting an image can have |
//! | `symlinks`, `hardlinks`, `modes` | absolute, relative, chained, dangling links; names of one file; set-id, owners, devices |
//! | `whiteout` | four layers that remove, hide and replace one another's files |
//! | `bare` | files whose directories have no entries |
//! | `no-path` | no PATH in its environment |
//! | `bad-blob` | its last layer's bytes are not what the digest says |
//! | `multi` | an index of amd64, arm64 and arm/v7 |
//!
//! Each has the tags `latest` and `v1` (`multi` only `latest`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::image::sha256;
use crate::world::EPOCH;

const OCI: &str = "application/vnd.oci.image.";
const DOCKER: &str = "application/vnd.docker.";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CREATED: &str = "2024-01-01T00:00:00Z";
/// `security.capability`, revision 2: CAP_NET_BIND_SERVICE, permitted.
const BIND_SERVICE: &[u8; 20] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A blob with the media type that a registry names for it.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) data: Arc<[u8]>,
    pub(crate) media_type: String,
}

/// All base images.
pub(crate) struct Bases {
    /// By digest.
    pub(crate) blobs: BTreeMap<String, Blob>,
    /// (repository, tag) to the manifest's digest.
    pub(crate) tags: BTreeMap<(String, String), String>,
    /// Each image's layers as plain tars.
    pub(crate) layers: BTreeMap<String, Vec<Arc<[u8]>>>,
    /// A plain tar's digest to its compressed form: the busybox layer is in every image.
    packed: BTreeMap<String, Vec<u8>>,
}

/// What differs between the ways to put an image.
#[derive(Clone, Copy)]
struct Form<'a> {
    architecture: &'a str,
    variant: Option<&'a str>,
    author: Option<&'a str>,
    docker: bool,
    compressed: bool,
}

const PLAIN: Form<'_> = Form {
    architecture: "amd64",
    variant: None,
    author: None,
    docker: false,
    compressed: true,
};

impl Bases {
    /// Makes every image.
    pub(crate) fn new() -> Bases {
        let mut bases = Bases {
            blobs: BTreeMap::new(),
            tags: BTreeMap::new(),
            layers: BTreeMap::new(),
            packed: BTreeMap::new(),
        };
        let busybox: Arc<[u8]> = busybox_layer().into();
        bases.settings(&busybox);
        bases.trees(&busybox);
        bases.corrupt(&busybox);
        bases.multi(&busybox);
        bases
    }

    fn settings(&mut self, busybox: &Arc<[u8]>) {
        let bb = || Arc::clone(busybox);
        self.image("busybox", &[bb()], &shell(), PLAIN);
        let note = tar(&[file("docker-v2", "docker media types\n")]);
        let docker = Form {
            docker: true,
            ..PLAIN
        };
        self.image("docker-v2", &[bb(), note], &shell(), docker);
        let plain = Form {
            compressed: false,
            ..PLAIN
        };
        self.image(
            "plain-layer",
            &[tar(&[file("plain", "no compression\n")])],
            &json!({}),
            plain,
        );
        let triggers = |list: Value| json!({"Env": [PATH], "Cmd": ["sh"], "OnBuild": list});
        let own = json!([
            "RUN echo first > /onbuild-first",
            "COPY trigger.txt /onbuild/",
            "ENV TRIGGERED=yes",
            "WORKDIR /onbuild"
        ]);
        self.image("onbuild", &[bb()], &triggers(own), PLAIN);
        let from = json!([
            "COPY --from=assets /asset.txt /from-assets.txt",
            "ARG FLAVOUR=plain",
            "RUN echo $FLAVOUR > /flavour"
        ]);
        self.image("onbuild-from", &[bb()], &triggers(from), PLAIN);
        let everything = json!({
            "User": "app", "ExposedPorts": {"8080/tcp": {}, "53/udp": {}},
            "Env": [PATH, "BASE_ONE=1", "BASE_TWO=two words"],
            "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo base"], "Volumes": {"/base/data": {}},
            "WorkingDir": "/srv/home", "Labels": {"base.name": "config", "base.keep": "yes"}, "StopSignal": "SIGQUIT",
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Retries": 2},
            "Shell": ["/bin/sh", "-ec"],
        });
        let home = tar(&[folder("srv"), folder("srv/home").owner(1000, 1000)]);
        let author = Form {
            author: Some("fixture author"),
            ..PLAIN
        };
        self.image("config", &[bb(), home], &everything, author);
        self.image("no-path", &[bb()], &json!({}), PLAIN);
    }

    fn trees(&mut self, busybox: &Arc<[u8]>) {
        let bb = || Arc::clone(busybox);
        let links = tar(&[
            folder("real"),
            folder("real/dir"),
            file("real/dir/kept", "kept\n"),
            file("real/file", "file\n"),
            link("abs", "/real/dir"),
            link("rel", "real/dir"),
            link("chain", "abs"),
            link("up", "../../real"),
            link("dangling", "/made/later"),
            link("loop", "loop"),
            link("filelink", "/real/file"),
            folder("nest"),
            link("nest/inner", "../real"),
            folder("home/app/data"),
            link("var/data", "/home/app/data"),
        ]);
        self.image("symlinks", &[bb(), links], &shell(), PLAIN);
        let layers = [
            bb(),
            tar(&[
                folder("data"),
                file("data/a", "a1\n"),
                file("data/b", "b1\n"),
                folder("data/sub"),
                file("data/sub/c", "c1\n"),
                folder("data/gone"),
                file("data/gone/x", "x\n"),
            ]),
            tar(&[
                folder("data"),
                file("data/.wh.a", ""),
                file("data/.wh.gone", ""),
                file("data/b", "b2\n").mode(0o600),
            ]),
            tar(&[
                folder("data/sub"),
                file("data/sub/.wh..wh..opq", ""),
                file("data/sub/d", "d3\n"),
            ]),
            tar(&[
                folder("data/a"),
                file("data/a/now-a-dir", "a4\n"),
                link("data/link", "b"),
            ]),
        ];
        self.image("whiteout", &layers, &shell(), PLAIN);
        let layers = [
            bb(),
            tar(&[
                file("bare/deep/f", "1\n"),
                folder("told"),
                file("told/gone", "1\n"),
                file("emptied/x", "1\n"),
            ]),
            tar(&[
                file("bare/deep/g", "2\n"),
                file("told/.wh.gone", ""),
                file("emptied/.wh.x", ""),
                file("hidden/.wh..wh..opq", ""),
            ]),
        ];
        self.image("bare", &layers, &shell(), PLAIN);
        let shared = tar(&[
            folder("hl"),
            file("hl/one", "shared\n"),
            hard("hl/two", "hl/one"),
            hard("hl/three", "hl/one"),
        ]);
        self.image("hardlinks", &[bb(), shared], &shell(), PLAIN);
        let modes = tar(&[
            folder("m"),
            file("m/suid", "s\n").mode(0o4755),
            file("m/sgid", "g\n").mode(0o2755),
            folder("m/sticky").mode(0o1777),
            folder("m/private").mode(0o700).owner(1000, 1000),
            file("m/owned", "o\n").mode(0o640).owner(1000, 44),
            file("m/cap", "c\n").mode(0o755).capability(),
            special("m/null", EntryType::Char, (1, 3)).mode(0o666),
            special("m/pipe", EntryType::Fifo, (0, 0)),
        ]);
        self.image("modes", &[bb(), modes], &shell(), PLAIN);
    }

    /// An image whose last layer is zeros of the right length.
    fn corrupt(&mut self, busybox: &Arc<[u8]>) {
        let layers = [
            Arc::clone(busybox),
            tar(&[file("x", "corrupted in transit\n")]),
        ];
        let manifest = self.image("bad-blob", &layers, &shell(), PLAIN);
        let digest = manifest["digest"]
            .as_str()
            .expect("a descriptor has a digest");
        let manifest: Value = serde_json::from_slice(&self.blobs[digest].data).expect("made here");
        let last = manifest["layers"][1]["digest"].as_str().expect("made here");
        let blob = self.blobs.get_mut(last).expect("made here");
        blob.data = vec![0; blob.data.len()].into();
    }

    fn multi(&mut self, busybox: &Arc<[u8]>) {
        let mut parts = Vec::new();
        for (architecture, variant) in [("amd64", None), ("arm64", None), ("arm", Some("v7"))] {
            let platform = [architecture, variant.unwrap_or_default()].join("/");
            let note = tar(&[file(
                "arch",
                format!("{}\n", platform.trim_end_matches('/')),
            )]);
            let layers = match architecture {
                "amd64" => vec![Arc::clone(busybox), note],
                _ => vec![note],
            };
            let config = json!({"Env": [PATH, format!("BASE_ARCH={architecture}")]});
            let form = Form {
                architecture,
                variant,
                ..PLAIN
            };
            parts.push(self.image(&format!("multi-{architecture}"), &layers, &config, form));
        }
        let media_type = format!("{OCI}index.v1+json");
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": parts});
        let index = self.blob(index.to_string().into_bytes(), &media_type);
        let digest = index["digest"]
            .as_str()
            .expect("a descriptor has a digest")
            .to_owned();
        self.tags.insert(("multi".into(), "latest".into()), digest);
    }

    /// Keeps a blob; its descriptor.
    fn blob(&mut self, data: Vec<u8>, media_type: &str) -> Value {
        let digest = format!("sha256:{}", sha256(&data));
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": data.len()});
        let media_type = media_type.to_owned();
        let data = data.into();
        self.blobs.insert(digest, Blob { data, media_type });
        descriptor
    }

    /// Keeps an image under both tags; its descriptor with the platform.
    fn image(&mut self, name: &str, layers: &[Arc<[u8]>], config: &Value, form: Form<'_>) -> Value {
        let (kind, image, manifest, layer) = match form.docker {
            true => (
                DOCKER,
                "container.image.v1+json",
                "distribution.manifest.v2+json",
                "image.rootfs.diff.tar.gzip",
            ),
            false if form.compressed => (
                OCI,
                "config.v1+json",
                "manifest.v1+json",
                "layer.v1.tar+gzip",
            ),
            false => (OCI, "config.v1+json", "manifest.v1+json", "layer.v1.tar"),
        };
        let diffs: Vec<String> = layers
            .iter()
            .map(|layer| format!("sha256:{}", sha256(layer)))
            .collect();
        let said = |at| json!({"created": CREATED, "created_by": format!("layer {at} of {name}")});
        let history: Vec<Value> = (0..layers.len()).map(said).collect();
        let mut platform = json!({"os": "linux", "architecture": form.architecture});
        let mut document = json!({"created": CREATED, "architecture": form.architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diffs}, "history": history});
        if let Some(variant) = form.variant {
            platform["variant"] = variant.into();
            document["variant"] = variant.into();
        }
        if let Some(author) = form.author {
            document["author"] = author.into();
        }
        let config = self.blob(document.to_string().into_bytes(), &format!("{kind}{image}"));
        let mut descriptors = Vec::new();
        for (data, diff) in layers.iter().zip(&diffs) {
            let data = match form.compressed {
                true => self
                    .packed
                    .entry(diff.clone())
                    .or_insert_with(|| gzip(data))
                    .clone(),
                false => data.to_vec(),
            };
            descriptors.push(self.blob(data, &format!("{kind}{layer}")));
        }
        let media_type = format!("{kind}{manifest}");
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors});
        let mut descriptor = self.blob(manifest.to_string().into_bytes(), &media_type);
        for tag in ["latest", "v1"] {
            let digest = descriptor["digest"]
                .as_str()
                .expect("a descriptor has a digest");
            self.tags
                .insert((name.to_owned(), tag.to_owned()), digest.to_owned());
        }
        self.layers.insert(name.to_owned(), layers.to_vec());
        descriptor["platform"] = platform;
        descriptor
    }
}

fn shell() -> Value {
    json!({"Env": [PATH], "Cmd": ["sh"]})
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::new(6));
    out.write_all(data).expect("a Vec takes all");
    out.finish().expect("a Vec takes all")
}

/// An entry of a layer to make.
struct Item {
    path: String,
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    data: Vec<u8>,
    target: String,
    device: (u32, u32),
    capability: bool,
}

impl Item {
    fn new(path: &str, kind: EntryType, mode: u32) -> Item {
        Item {
            path: path.to_owned(),
            kind,
            mode,
            owner: (0, 0),
            data: Vec::new(),
            target: String::new(),
            device: (0, 0),
            capability: false,
        }
    }

    fn mode(self, mode: u32) -> Item {
        Item { mode, ..self }
    }

    fn owner(self, uid: u64, gid: u64) -> Item {
        let owner = (uid, gid);
        Item { owner, ..self }
    }

    fn capability(self) -> Item {
        Item {
            capability: true,
            ..self
        }
    }
}

fn folder(path: &str) -> Item {
    Item::new(path, EntryType::Directory, 0o755)
}

fn file(path: &str, data: impl Into<Vec<u8>>) -> Item {
    let data = data.into();
    Item {
        data,
        ..Item::new(path, EntryType::Regular, 0o644)
    }
}

fn link(path: &str, target: &str) -> Item {
    let target = target.to_owned();
    Item {
        target,
        ..Item::new(path, EntryType::Symlink, 0o777)
    }
}

fn hard(path: &str, target: &str) -> Item {
    let target = target.to_owned();
    Item {
        target,
        ..Item::new(path, EntryType::Link, 0o644)
    }
}

fn special(path: &str, kind: EntryType, device: (u32, u32)) -> Item {
    Item {
        device,
        ..Item::new(path, kind, 0o644)
    }
}

/// A plain tar of the items, in their order.
fn tar(items: &[Item]) -> Arc<[u8]> {
    let mut out = tar::Builder::new(Vec::new());
    for item in items {
        if item.capability {
            let record = [("SCHILY.xattr.security.capability", &BIND_SERVICE[..])];
            out.append_pax_extensions(record).expect("a Vec takes all");
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(item.kind);
        header
            .set_path(&item.path)
            .expect("the paths here are short and relative");
        header
            .set_link_name_literal(&item.target)
            .expect("the targets here are short");
        header.set_mode(item.mode);
        header.set_uid(item.owner.0);
        header.set_gid(item.owner.1);
        header.set_mtime(u64::try_from(EPOCH).expect("after 1970"));
        header.set_size(item.data.len() as u64);
        header
            .set_device_major(item.device.0)
            .expect("ustar has the field");
        header
            .set_device_minor(item.device.1)
            .expect("ustar has the field");
        header.set_cksum();
        out.append(&header, &item.data[..])
            .expect("a Vec takes all");
    }
    out.into_inner().expect("a Vec takes all").into()
}

fn busybox_layer() -> Vec<u8> {
    let binary = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| std::fs::exists(path).is_ok_and(|is| is));
    let binary = binary.expect("Debian's package busybox-static");
    let list = Command::new(binary)
        .arg("--list")
        .output()
        .expect("run busybox");
    let applets = String::from_utf8(list.stdout).expect("applets have plain names");
    let users = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nwww-data:x:33:33::/var/www:/bin/false\n\
                 app:x:1000:1000::/home/app:/bin/sh\nsolo:x:1001:2001::/home/solo:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/:/bin/false\n";
    let groups = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nstaff:x:50:app\nvideo:x:44:app,www-data\napp:x:1000:\n\
                  solos:x:2001:\nnogroup:x:65534:\n";
    let folders =
        "bin dev etc home home/app proc sys usr usr/bin usr/local usr/local/bin var var/www";
    let mut items: Vec<Item> = folders.split(' ').map(folder).collect();
    items.extend([folder("root").mode(0o700), folder("tmp").mode(0o1777)]);
    items.push(file("bin/busybox", std::fs::read(binary).expect("read busybox")).mode(0o755));
    items.extend(
        applets
            .split_whitespace()
            .filter(|a| *a != "busybox")
            .map(|a| link(&format!("bin/{a}"), "busybox")),
    );
    items.push(link("usr/bin/env", "../../bin/busybox"));
    items.extend([
        file("etc/passwd", users),
        file("etc/group", groups),
        file("etc/os-release", "ID=fixture\n"),
    ]);
    tar(&items).to_vec()
}
