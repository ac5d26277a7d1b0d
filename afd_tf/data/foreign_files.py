"""Descriptions of files that are no readable images, with the way out."""

import errno
import os

_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")

# The first bytes of files that are found among images, what they are, what to do.
_SIGNATURES = (
    (b"version https://git-lfs", "is a Git LFS pointer", "run `git lfs pull`"),
    (b"/annex/objects", "is a git-annex pointer", "run `git annex get`"),
    (b"%PDF", "is a PDF document", "extract its images, or remove it"),
    (b"PK\x03\x04", "is a ZIP archive", "unpack it"),
    (b"\x1f\x8b", "is a gzip archive", "unpack it"),
    (b"Rar!", "is a RAR archive", "unpack it"),
    (b"7z\xbc\xaf", "is a 7-Zip archive", "unpack it"),
    (b"\x1aE\xdf\xa3", "is a video", "extract its images, or remove it"),
    (b"\xff\x0a", "is a JPEG XL image", "`pip install pillow-jxl-plugin`"),
    (b"\x00\x00\x00\x0cJXL ", "is a JPEG XL image", "convert it to JPEG"),
    (b"<svg", "is an SVG drawing", "convert it to PNG"),
)


def brand(head: bytes) -> str | None:
    """Returns "heic" or "avif" for the head of such a file, else None."""
    if head[4:8] != b"ftyp":
        return None
    # The major brand, a version, then the compatible brands.
    brands = [head[8:12], *(head[i : i + 4] for i in range(16, head[3] or 32, 4))]
    if any(name in _AVIF_BRANDS for name in brands):
        return "avif"
    return "heic" if any(name in _HEIC_BRANDS for name in brands) else None


def describe(head: bytes) -> str:
    """Returns the rest of the sentence "FILE ..." about a file that is no image.

    Args:
      head: its first bytes, 512 or so.
    """
    if not head:
        return "is empty: remove it, or copy it again."
    if kind := brand(head):
        package = {
            "heic": "pillow-heif",
            "avif": "'pillow>=11.3' or pillow-avif-plugin",
        }
        return (
            f"is {'an' if kind == 'avif' else 'a'} {kind.upper()} image that cannot "
            f"be read: `pip install {package[kind]}`, or convert it to JPEG."
        )
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = start[:200].lower()
    if lower.startswith((b"<!doctype html", b"<html")) or b"<html" in lower:
        return (
            "is an HTML page, perhaps the error page of a download: download the "
            "image again, or remove it."
        )
    if lower.startswith(b"<?xml") and b"<svg" in head.lower():
        return "is an SVG drawing: convert it to PNG, or remove it."
    if head[4:8] == b"ftyp" or (head[:4], head[8:12]) == (b"RIFF", b"AVI "):
        return "is a video: extract its images, or remove it."
    for signature, what, remedy in _SIGNATURES:
        if start.startswith(signature):
            return f"{what}: {remedy}."
    if not any(head):
        return "holds zeros alone, as after a broken copy: copy it again, or remove it."
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "is no image but a text: remove it."
    return "is no image that can be read: remove or repair it."


def describe_error(error: OSError, path: str | None = None) -> str:
    """Returns the rest of the sentence "FILE ..." about a file that does not open.

    Args:
      error: the reason.
      path: where the file is; a link's target is named.
    """
    is_link = path is not None and os.path.islink(path)
    if error.errno == errno.ELOOP:
        return "is a symbolic link that leads back to itself: remove it."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if is_link:
            target = os.readlink(path)
            return (
                f"is a symbolic link to {target}, which does not exist: remove the "
                f"link, or restore what it points to."
            )
        return "does not exist: correct its path."
    if isinstance(error, IsADirectoryError):
        return "is a folder, not an image: give the images in it."
    if isinstance(error, PermissionError):
        return "cannot be read, as the permission is missing: `chmod u+r` it."
    return f"cannot be read ({error.strerror or error}): copy it again, or remove it."
