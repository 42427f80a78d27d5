#!/bin/sh
# prebuildify calls this in place of node-gyp; its arguments don't matter, CMake owns the build.
exec node "$(dirname "$0")/setup.mjs" native
