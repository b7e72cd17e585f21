#!/bin/sh
# busybox httpd runs this for GET / where there is no index.html.
printf 'Content-Type: application/json\r\n\r\n'
printf '{"hostname":"%s","client":"%s"}\n' "$(hostname)" "$REMOTE_ADDR"
