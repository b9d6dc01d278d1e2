# SPDX-License-Identifier: Apache-2.0
"""mooncake_http_metadata_server: Mooncake's options for `ferry metadata-server`."""

from __future__ import annotations

import argparse
from typing import List, Optional

from ._tool import run_ferry


def main(arguments: Optional[List[str]] = None) -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(prog="mooncake_http_metadata_server",
                                     description="Keeps nodes' metadata for http:// metadata servers (Ferry's).",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 takes a free one")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    parser.add_argument("--log-level", default="INFO", type=str.upper,
                        choices=["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], help="DEBUG logs each request")
    options = parser.parse_args(arguments)
    run_ferry(["metadata-server", "--host", options.host, "--port", str(options.port)] +
              (["--verbose"] if options.log_level == "DEBUG" else []))


if __name__ == "__main__":
    main()
