"""The headers of what the site answers: what the page may load and do, and what each file is.

Does: state them once. The site and mirrors send them; `build.py` writes them into the service worker, which answers in
the site's place, and the policies into the pages, for sites that send no headers.
Does not: send anything, or need more than the standard library.
"""

from __future__ import annotations

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self' 'wasm-unsafe-eval'",
            "worker-src 'self'",
            "connect-src 'self' ws: wss:",
            "img-src 'self' blob: data:",
            "media-src 'self' blob:",
            "style-src 'self'",
            "font-src 'self'",
            "manifest-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types convergence",  # web/main.js makes this policy, for the worker's address
        )
    ),
    "Permissions-Policy": ", ".join(
        f"{feature}=()"
        for feature in (
            *("accelerometer", "autoplay", "camera", "display-capture", "encrypted-media", "fullscreen", "gamepad"),
            *("geolocation", "gyroscope", "hid", "idle-detection", "local-fonts", "magnetometer", "microphone", "midi"),
            *("payment", "picture-in-picture", "publickey-credentials-get", "screen-wake-lock", "serial", "usb"),
            "xr-spatial-tracking",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Server": "Convergence",
}

BOOKMARK_PAGE = "/open.html"
"""The page on which people click their bookmark: empty, with a policy for what the bookmark puts in its place."""

BOOKMARK_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'unsafe-inline' blob: 'wasm-unsafe-eval'",
        "style-src 'unsafe-inline' blob:",
        "img-src blob: data:",
        "media-src blob:",
        "connect-src * ws: wss: blob:",  # any mirror; the bookmarklet narrows all this before it starts anything
        "worker-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",  # declarations, to be read
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
"""Types that the machine's own tables might not know. Anything else is application/octet-stream."""


def policy_in(page: str) -> str:
    """The policy of a file of the site in the form for a page's own <meta>: browsers ignore frame-ancestors there."""
    policy = BOOKMARK_POLICY if f"/{page}" == BOOKMARK_PAGE else HEADERS["Content-Security-Policy"]
    return "; ".join(part for part in policy.split("; ") if not part.startswith("frame-ancestors"))


def for_worker() -> dict[str, object]:
    """The part of this module that the service worker needs, as JSON values."""
    headers = {name: value for name, value in HEADERS.items() if name != "Server"}
    return {"headers": headers, "bookmarkPolicy": BOOKMARK_POLICY, "types": TYPES}
