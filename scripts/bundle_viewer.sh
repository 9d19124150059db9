#!/usr/bin/env bash
# Bundle the viewer of report.html with three.js: recon/report/viewer/viewer.js -> recon/report/page/viewer.min.js.
# Needs node and npm; package-lock.json pins all versions, so the same sources give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/../recon/report/viewer"
npm ci --silent --no-audit --no-fund
npx esbuild viewer.js --bundle --minify --format=iife --global-name=reconViewer --target=es2020 \
    --legal-comments=none --charset=utf8 --log-level=warning --outfile=../page/viewer.min.js
cp node_modules/three/LICENSE ../page/LICENSE-three.txt
