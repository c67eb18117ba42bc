"""The provenance mark: metadata that says an image is synthetic, written with it and read back.

The mark is XMP (ISO 16684-1) with the fields of the IPTC Photo Metadata Standard 2025.1 for
generated images: digital source type, AI system and its version. EXIF and PNG text say the same in
plain words. No metadata of the photos is copied.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageDraw, ImageFont, PngImagePlugin

from hsd_jax.imaging.opening import opened
from hsd_jax.version import __version__

SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
"""From the IPTC's NewsCodes: a composite of photos and of content from a trained model."""

_NAME = "hsd_jax"
_TEXT = (
    "Synthetic image: head swapped by hsd_jax {version} (HS-Diffusion, arXiv 2212.06458). "
    "Do not present it as a photograph."
)
_LABEL = "Synthetic image: hsd_jax"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": _IPTC,
}
_MAX_XMP = 1_000_000  # bytes; a mark takes about 1,000


@dataclass(frozen=True)
class Mark:
    """The software and the weights that made an image."""

    version: str = __version__
    """Of hsd_jax."""
    weights: str = ""
    """Fingerprint of the weights (`hsd_jax.weights.fingerprint`); empty if unknown."""

    @property
    def text(self) -> str:
        """The mark in plain words."""
        return _TEXT.format(version=self.version)

    def save_options(self, format_: str) -> dict[str, Any]:
        """Returns the arguments of Pillow's `save` that write the mark in this format."""
        software = f"{_NAME} {self.version}"
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = self.text
        exif[ExifTags.Base.Software] = software
        if format_ != "PNG":
            return {"exif": exif, "xmp": self._xmp()}
        info = PngImagePlugin.PngInfo()
        info.add_text("Description", self.text)
        info.add_text("Software", software)
        info.add_itxt("XML:com.adobe.xmp", self._xmp().decode())
        return {"exif": exif, "pnginfo": info}

    def _xmp(self) -> bytes:
        version = f"{self.version}, weights {self.weights}" if self.weights else self.version
        fields = {
            "xmp:CreatorTool": f"{_NAME} {self.version}",
            "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
            "Iptc4xmpExt:AISystemUsed": _NAME,
            "Iptc4xmpExt:AISystemVersionUsed": version,
        }
        names = [f"xmlns:{name}={quoteattr(uri)}" for name, uri in _NAMESPACES.items()]
        described = "\n  ".join(f"{name}={quoteattr(value)}" for name, value in fields.items())
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
            f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n<rdf:RDF {" ".join(names)}>\n'
            f'<rdf:Description rdf:about=""\n  {described}/>\n</rdf:RDF>\n</x:xmpmeta>\n'
            '<?xpacket end="r"?>'
        ).encode()

    @classmethod
    def read(cls, path: str | Path) -> Self | None:
        """Reads the mark of an image file; None if it has none of hsd_jax.

        Raises:
          ValueError: if the file does not exist or is not an image.
        """
        with opened(os.fsdecode(path)) as (image, _):
            packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
            described = str(image.getexif().get(ExifTags.Base.ImageDescription, ""))
            texts = (described, str(image.info.get("Description", "")))
        found = _of_xmp(packet if isinstance(packet, bytes) else packet.encode())
        # If a program dropped the XMP, the words may be left.
        for text in () if found else texts:
            if match := re.fullmatch(re.escape(_TEXT).replace(r"\{version\}", "(.+)"), text):
                found = match[1], ""
        return None if found is None else cls(*found)


def _of_xmp(packet: bytes) -> tuple[str, str] | None:
    """Reads version and weights from an XMP packet, written as attributes or as elements."""
    if not 0 < len(packet) <= _MAX_XMP:
        return None
    try:
        root = ElementTree.fromstring(packet.decode(errors="replace").strip("\0 \r\n\ufeff"))
    except ElementTree.ParseError:
        return None
    fields: dict[str, str] = {}
    for element in root.iter():
        fields |= {name: value for name, value in element.attrib.items()}
        fields[element.tag] = element.text or ""
    if fields.get(f"{{{_IPTC}}}AISystemUsed") != _NAME:
        return None
    version, _, weights = fields.get(f"{{{_IPTC}}}AISystemVersionUsed", "").partition(", weights ")
    return version, weights


def labelled(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a copy that says in its lower left corner that it is synthetic."""
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas, "RGBA")
    font = ImageFont.load_default(size=max(10, round(min(height, width) / 32)))
    gap = font.getbbox("n")[3] / 2
    left, top, right, bottom = draw.textbbox((gap, height - gap), _LABEL, font=font, anchor="ls")
    box = (left - gap, top - gap, right + gap, bottom + gap)
    draw.rectangle(box, fill=(0, 0, 0, 160))
    draw.text((gap, height - gap), _LABEL, font=font, fill="white", anchor="ls")
    return np.array(canvas)
