#!/usr/bin/env python3
"""Writes OCI image archives that `ctr images import` and `docker load` both take.

usage: oci.py OUTPUT.tar NAME CONFIG LAYER.tar...

CONFIG is the image's "config" object in JSON (Cmd, Entrypoint, User, ...); a PATH is added. Layers are given lowest first. Those below
COMPRESSED_BELOW bytes are stored gzip-compressed as a registry would have them, larger ones as they are: decompressing is
slow on an emulated CPU. The result depends on the inputs alone, so equal inputs give equal digests.
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile

COMPRESSED_BELOW = 16 << 20
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def blob_name(digest):
    return "blobs/sha256/" + digest


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def encode(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read_layer(path):
    """Returns (diff id, stored bytes, media type) of the layer tar at path."""
    with open(path, "rb") as file:
        plain = file.read()
    media_type = "application/vnd.oci.image.layer.v1.tar"
    if len(plain) < COMPRESSED_BELOW:
        return sha256(plain), gzip.compress(plain, compresslevel=6, mtime=0), media_type + "+gzip"
    return sha256(plain), plain, media_type


def build(output, name, config, layer_paths):
    layers = [read_layer(path) for path in layer_paths]
    image = encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + diff_id for diff_id, _, _ in layers]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "e2e/images"} for _ in layers],
        }
    )
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", image),
            "layers": [descriptor(media_type, data) for _, data, media_type in layers],
        }
    )
    entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["platform"] = {"architecture": "amd64", "os": "linux"}
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1],
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    # docker load without the containerd image store reads manifest.json and not the index.
    docker = [
        {
            "Config": blob_name(sha256(image)),
            "RepoTags": [name.removeprefix("docker.io/")],
            "Layers": [blob_name(sha256(data)) for _, data, _ in layers],
        }
    ]
    files = {"oci-layout": encode({"imageLayoutVersion": "1.0.0"}), "index.json": encode(index)}
    files["manifest.json"] = encode(docker)
    for data in [image, manifest] + [data for _, data, _ in layers]:
        files[blob_name(sha256(data))] = data
    with tarfile.open(output, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(data))


def descriptor(media_type, data):
    return {"mediaType": media_type, "digest": "sha256:" + sha256(data), "size": len(data)}


def main(arguments):
    if len(arguments) < 4:
        sys.exit(__doc__)
    output, name, config, *layer_paths = arguments
    build(output, name, {"Env": [PATH], **json.loads(config)}, layer_paths)


if __name__ == "__main__":
    main(sys.argv[1:])
