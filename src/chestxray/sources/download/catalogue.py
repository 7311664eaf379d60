"""What NIH publishes, where, and how it is known to be whole. Facts only.

Sources: the links of NIH's own `batch_download_zips.py`; the MD5 sums of NIH's
`FAQ_CHESTXRAY.pdf` (question 7); sizes as the server states them; the Box folder
https://nihcc.app.box.com/v/ChestXray-NIHCC for tables and lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FOLDER: Final = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
IMAGES: Final = 112_120
_STATIC: Final = "https://nihcc.box.com/shared/static"
_FILE: Final = (
    "https://nihcc.app.box.com/index.php?rm=box_download_shared_file"
    "&vanity_name=ChestXray-NIHCC&file_id=f_"
)


@dataclass(frozen=True)
class Archive:
    """One packed folder of images.

    Attributes:
        name: file name; the part before `.tar.gz` names the folder that it is unpacked to.
        url: where it lies.
        size: bytes.
        md5: of the archive, as published; hexadecimal.
        images: how many files it holds.
    """

    name: str
    url: str
    size: int
    md5: str
    images: int

    @property
    def folder(self) -> str:
        """Name of the folder that it is unpacked to."""
        return self.name.removesuffix(".tar.gz")


@dataclass(frozen=True)
class Table:
    """A label table or an official list.

    Attributes:
        name: file name.
        url: where it lies.
        lines: how many lines that are not empty it has.
    """

    name: str
    url: str
    lines: int


_ARCHIVES: Final = (
    # Box link, bytes, MD5, images
    ("vfk49d74nhbxq3nqjg0900w5nvkorp5c", 2_008_470_987, "fe8ed0a6961412fddcbb3603c11b3698", 4_999),
    ("i28rlmbvmfjbl8p2n3ril0pptcmcu9d1", 3_952_623_504, "ab07a2d7cbe6f65ddd97b4ed7bde10bf", 10_000),
    ("f1t00wrtdk94satdfb9olcolqx20z2jp", 3_929_234_850, "2301d03bde4c246388bad3876965d574", 10_000),
    ("0aowwzs5lhjrceb3qp67ahp0rd1l1etg", 3_838_903_983, "9f1b7f5aae01b13f4bc8e2c44a4b8ef6", 10_000),
    ("v5e3goj22zr6h8tzualxfsqlqaygfbsn", 3_935_496_531, "1861f3cd0ef7734df8104f2b0309023b", 10_000),
    ("asi7ikud9jwnkrnkj99jnpfkjdes7l6l", 3_986_301_172, "456b53a8b351afd92a35bc41444c58c8", 10_000),
    ("jn1b4mw4n6lnh74ovmcjb8y48h8xj07n", 4_016_328_426, "1075121ea20a137b87f290d6a4a5965e", 10_000),
    ("tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j", 4_018_347_353, "b61f34cec3aa69f295fbb593cbd9d443", 10_000),
    ("upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj", 4_111_327_929, "442a3caa61ae9b64e61c561294d1e183", 10_000),
    ("l6nilvfa9cg3s28tqv1qc1olm3gnz54p", 4_181_556_296, "09ec81c4c31e32858ad8cf965c494b74", 10_000),
    ("hhq8fkdgvcari67vfhs7ppg2w6ni4jze", 4_187_084_020, "499aefc67207a5a97692424cf5dbeed5", 10_000),
    ("ioqwiy20ihqwyr8pf4c24eazhh281pbu", 2_914_187_733, "dc9fda1757c2de0032b63347a7d2895c", 7_121),
)  # fmt: skip

ARCHIVES: Final = tuple(
    Archive(f"images_{number:03d}.tar.gz", f"{_STATIC}/{link}.gz", size, md5, images)
    for number, (link, size, md5, images) in enumerate(_ARCHIVES, start=1)
)

TABLES: Final = (
    Table("Data_Entry_2017_v2020.csv", f"{_FILE}219760887468", 112_121),
    Table("train_val_list.txt", f"{_FILE}256056636701", 86_524),
    Table("test_list.txt", f"{_FILE}256055473534", 25_596),
)

BY_HAND: Final = ("BBox_List_2017.csv",)  # no link to the file itself is known
