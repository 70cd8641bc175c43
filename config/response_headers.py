"""Headers of every response that says nothing else, for browsers."""

# No page may show a response in a frame, and a response that is taken for a page loads nothing.
CONTENT_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
DEFAULT_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Frame-Options": "DENY",  # for browsers that do not know `frame-ancestors`
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # addresses may have a token in them
    "Cache-Control": "no-store",
}
