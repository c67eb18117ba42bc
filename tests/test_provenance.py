"""What an image says of its origin: written in every format, read back, and nothing else copied."""

import datetime
import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from hsd_jax import cli
from hsd_jax.imaging import files, provenance
from hsd_jax.imaging.provenance import Mark

MARK = Mark("9.8.7", "0123456789abcdef")
ENDINGS = [".png", ".jpg", ".webp"]


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_mark_is_read_back(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    files.save_image(picture(), path, MARK)
    assert Mark.read(path) == MARK
    # The packet lies open in the file, for programs that know no image format.
    content = path.read_bytes()
    packet = content[content.index(b"<x:xmpmeta") : content.index(b"</x:xmpmeta>") + 12]
    (described,) = ElementTree.fromstring(packet)[0]
    iptc = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    assert described.get(f"{iptc}DigitalSourceType") == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    )
    assert described.get("{http://ns.adobe.com/xap/1.0/}CreatorTool") == "hsd_jax 9.8.7"


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_words_remain_where_a_program_drops_the_xmp(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    files.save_image(picture(), path, MARK)
    with Image.open(path) as image:
        image.copy().save(path, exif=image.getexif(), xmp=b"")
    assert Mark.read(path) == Mark("9.8.7", "")


def test_the_mark_is_read_in_the_other_form_of_xmp(tmp_path):
    iptc = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'xmlns:e="{iptc}"><e:AISystemUsed>hsd_jax</e:AISystemUsed><e:AISystemVersionUsed>1.2, '
        "weights ab</e:AISystemVersionUsed></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    Image.fromarray(picture()).save(tmp_path / "a.jpg", xmp=packet.encode())
    assert Mark.read(tmp_path / "a.jpg") == Mark("1.2", "ab")


def test_other_images_have_none(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    Image.fromarray(picture()).save(tmp_path / "b.jpg", xmp=b"<not xml")
    other = MARK._xmp().replace(b'AISystemUsed="hsd_jax"', b'AISystemUsed="another"')
    Image.fromarray(picture()).save(tmp_path / "c.webp", xmp=other)
    assert [Mark.read(path) for path in sorted(tmp_path.iterdir())] == [None] * 3


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_of_a_photos_own_metadata_is_copied(tmp_path, ending):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker of cameras"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.BodySerialNumber] = "SERIAL-77"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (51.0, 30.0, 0.0)
    photo, path = tmp_path / "photo.jpg", tmp_path / f"a{ending}"
    Image.fromarray(picture()).save(photo, exif=exif, xmp=b"<x>SERIAL-77</x>", comment=b"SERIAL-77")
    with Image.open(photo) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    assert b"SERIAL-77" in photo.read_bytes()
    files.save_image(files.open_photo(photo), path)
    with Image.open(path) as image:
        kept = image.getexif()
    assert set(kept) == {ExifTags.Base.ImageDescription, ExifTags.Base.Software}
    assert not kept.get_ifd(ExifTags.IFD.GPSInfo)
    assert b"SERIAL-77" not in path.read_bytes() and b"Maker" not in path.read_bytes()


# What says where and with what a photo was taken, of every kind that a JPEG can hold.
_TOLD = (
    "-GPSLatitude=51.5", "-GPSLatitudeRef=N", "-GPSLongitude=0.12", "-GPSLongitudeRef=W",
    "-XMP-exif:GPSLatitude=51.5", "-SerialNumber=SECRET", "-LensSerialNumber=SECRET",
    "-OwnerName=SECRET", "-Artist=SECRET", "-XMP:Creator=SECRET", "-XMP-xmpMM:DocumentID=SECRET",
    "-IPTC:By-line=SECRET", "-IPTC:City=SECRET", "-Comment=SECRET",
)  # fmt: skip


def _exiftool(*words: str | Path) -> str:
    done = subprocess.run(["exiftool", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="there is no exiftool")
@pytest.mark.parametrize("ending", ENDINGS)
def test_exiftool_sees_the_mark_and_the_profile_and_nothing_of_the_photo(tmp_path, ending):
    photo, path = tmp_path / "photo.jpg", tmp_path / f"a{ending}"
    exif, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b"SECRET" * 9
    Image.fromarray(picture()).save(photo, exif=exif, icc_profile=profile.tobytes())
    _exiftool("-q", "-overwrite_original", *_TOLD, photo)
    assert "GPS" in _exiftool("-G1", photo) and photo.read_bytes().count(b"SECRET") > 9
    read = files.read_photo(photo)
    files.save_image(read.pixels, path, MARK, srgb=read.srgb)
    (found,) = json.loads(_exiftool("-j", "-G1", "-a", path))
    assert found["XMP-iptcExt:DigitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert "Warning" not in str(found) and "sRGB" in found["ICC_Profile:ProfileDescription"]
    groups = {name.split(":")[0] for name in found if not name.startswith(("ICC", "SourceFile"))}
    formats = {"PNG", "File", "JFIF", "RIFF"}
    assert groups - formats <= {"ExifTool", "System", "IFD0", "XMP-x", "XMP-xmp", "XMP-iptcExt",
                                "Composite"}  # fmt: skip
    assert b"SECRET" not in path.read_bytes()


@pytest.mark.parametrize("size", [(64, 64), (300, 400), (1200, 800)])
def test_the_label_stays_in_its_corner(size):
    image = np.full((*size, 3), 200, np.uint8)
    changed = (provenance.labelled(image) != image).any(-1)
    rows, columns = np.nonzero(changed)
    height, width = size
    assert rows.min() > 0.7 * height and columns.min() == 0 and rows.max() == height - 1
    assert 20 < np.ptp(columns) and 0.002 < changed.mean() < 0.3
    assert (image == 200).all()


def test_verify_tells_by_its_status(tmp_path, capsys):
    files.save_image(picture(), tmp_path / "ours.webp", MARK, label=True)
    Image.fromarray(picture()).save(tmp_path / "photo.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    assert cli.main(["verify", str(tmp_path / "ours.webp")]) == 0
    assert "hsd_jax 9.8.7, weights 0123456789abcdef" in capsys.readouterr().out
    assert cli.main(["verify", str(tmp_path / "photo.jpg"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["made_by_hsd_jax"] is None
    for name in ("text.jpg", "none.png"):
        assert cli.main(["verify", str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert name in err and err.count("\n") == 1 and not out


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A chain of two certificates and the signer's key, as C2PA wants them."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "signer")}
    today, names = datetime.datetime.now(datetime.UTC), {}
    for name in keys:
        parts = [(x509.NameOID.ORGANIZATION_NAME, "Tests"), (x509.NameOID.COMMON_NAME, name)]
        names[name] = x509.Name([x509.NameAttribute(*part) for part in parts])
    usages = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    chain = []
    for name in ("signer", "root"):
        root = name == "root"
        used = {"key_cert_sign", "crl_sign"} if root else {"digital_signature"}
        usage = x509.KeyUsage(**{usage: usage in used for usage in usages})
        builder = x509.CertificateBuilder(
            issuer_name=names["root"], subject_name=names[name], public_key=keys[name].public_key(),
            serial_number=x509.random_serial_number(), not_valid_before=today,
            not_valid_after=today + datetime.timedelta(days=2),
        )  # fmt: skip
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["root"].public_key())
        builder = builder.add_extension(x509.BasicConstraints(root, None), True)
        builder = builder.add_extension(usage, True).add_extension(issuer, False)
        if not root:
            mail = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(mail, True)
        certificate = builder.sign(keys["root"], hashes.SHA256())
        chain.append(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "cert.pem").write_bytes(b"".join(chain))
    key = keys["signer"].private_bytes(*form, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key)
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize("ending", ENDINGS)
def test_credentials_are_signed_and_show_changes(tmp_path, ending):
    pytest.importorskip("c2pa")
    from hsd_jax.imaging.credentials import Credentials, signer_of

    signer = Credentials.read(*_certificate(tmp_path))
    path = tmp_path / f"a{ending}"
    files.save_image(picture(), path, MARK, credentials=signer)
    assert signer_of(path) == "Tests (valid, on no list of trusted signers)"
    assert Mark.read(path) == MARK
    data = bytearray(path.read_bytes())
    data[-100 if ending == ".jpg" else data.index(b"AISystemUsed")] ^= 1
    path.write_bytes(bytes(data))
    assert "not valid" in str(signer_of(path))
    files.save_image(picture(), path, MARK)
    assert signer_of(path) is None


def test_what_cannot_sign_is_refused(tmp_path):
    pytest.importorskip("c2pa")
    from hsd_jax.imaging.credentials import Credentials

    certificate, key = _certificate(tmp_path)
    with pytest.raises(ValueError, match="no certificate in PEM"):
        Credentials.read(key, key)
    with pytest.raises(ValueError, match="no private key in PEM"):
        Credentials.read(certificate, certificate)
    with pytest.raises(ValueError, match="none.pem cannot be read"):
        Credentials.read(tmp_path / "none.pem", key)


def test_signing_without_its_extra_names_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    for name in ("head.png", "body.png"):
        Image.fromarray(picture()).save(tmp_path / name)
    photos = [str(tmp_path / name) for name in ("head.png", "body.png")]
    out = str(tmp_path / "out.png")
    assert cli.main(["swap", *photos, "-o", out, "--sign", "cert.pem", "key.pem"]) == 2
    assert "pip install 'hsd-jax[c2pa]'" in capsys.readouterr().err
