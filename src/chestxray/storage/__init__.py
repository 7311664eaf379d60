"""Files wherever they are: on this machine, or in an object store named by a URL.

| to | use |
|---|---|
| tell a URL from a path, refuse what is no good URL | `path_of`, `url_of`, `is_url`, `shown` |
| read, write, list objects, checked and tried again | `ObjectFolder` |
| have a file, a bundle, a run on this machine | `fetched` |
| write what ends in a store | `staged_file`, `staged_folder`, `publish`, `upload` |
| read a raw tree | `mirrored`, and `contents`, `content`, `opened` for its radiographs |
| keep shards on this machine up to `--cache-gib` | `cache.keep`, `cache.release` |
"""

from __future__ import annotations

from chestxray.storage.objects import ObjectFolder, Version
from chestxray.storage.publication import fetched, publish, upload, upload_alone
from chestxray.storage.staging import claim_staging, staged_file, staged_folder, staging_of
from chestxray.storage.trees import Content, content, contents, mirrored, opened, origin_of
from chestxray.storage.urls import is_url, known_as, path_of, shown, url_of

__all__ = [
    "Content",
    "ObjectFolder",
    "Version",
    "claim_staging",
    "content",
    "contents",
    "fetched",
    "is_url",
    "known_as",
    "mirrored",
    "opened",
    "origin_of",
    "path_of",
    "publish",
    "shown",
    "staged_file",
    "staged_folder",
    "staging_of",
    "upload",
    "upload_alone",
    "url_of",
]
