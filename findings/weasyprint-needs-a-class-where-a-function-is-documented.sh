#!/bin/sh
# WeasyPrint 67.0 and 70.0, Python 3.11; needs Debian's libpango-1.0-0, libpangoft2-1.0-0 and libharfbuzz-subset0.
# The parameter url_fetcher of HTML is documented as a callable. A function that raises for what must not be fetched
# leaves the image out in 67.0, and its text in alt is shown. In 70.0 the same function ends write_pdf with
# AttributeError: 'function' object has no attribute '_fail_on_errors'. A function that never raises works in both, so
# the first blocked address is what shows it. An instance of weasyprint.urls.URLFetcher is needed to refuse addresses.
# Exit status: 0 while it is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
status=0
for pair in '67.0 left-out' '70.0 AttributeError'; do
    version=${pair% *}
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "weasyprint==$version" 2>/dev/null
    "$folder/$version/bin/python" - "$version" "${pair#* }" <<'PYTHON' || status=1
import sys

import weasyprint


def refuse(url):
    raise ValueError("not allowed here")


page = '<p>a page<img src="http://example.org/a.png" alt="a picture">'
try:
    weasyprint.HTML(string=page, url_fetcher=refuse).write_pdf()
    found = "left-out"
except AttributeError as error:
    found = "AttributeError"
    print(f"weasyprint {sys.argv[1]}: {error}")
print(f"weasyprint {sys.argv[1]}: the function raised ValueError; the result: {found}")
sys.exit(found != sys.argv[2])
PYTHON
done
exit $status
