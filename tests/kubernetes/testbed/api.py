"""The testbed's own look at its API server, as the administrator."""

import http.client
import json
import ssl


class ApiError(Exception):
    def __init__(self, status, message):
        super().__init__(f"{status} {message}")
        self.status = status


class Api:
    """One connection, kept open; for one thread."""

    def __init__(self, port, pki, timeout=10):
        context = ssl.create_default_context(cafile=pki / "ca.crt")
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=timeout)

    def __call__(self, method, path, body=None, content="application/json"):
        """Returns the answer, parsed if it is JSON. An error of the API is an ApiError, one of the network an OSError."""
        try:
            self._connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": content})
            response = self._connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise OSError(str(error)) from None
        told = json.loads(data) if "json" in response.headers.get("Content-Type", "") else data.decode()
        if response.status >= 300:
            raise ApiError(response.status, told.get("message") if isinstance(told, dict) else told)
        return told

    def get(self, path):
        return self("GET", path)

    def create(self, path, body):
        """Creates an object, or leaves one that is there."""
        try:
            return self("POST", path, body)
        except ApiError as error:
            if error.status != 409:
                raise
            return None

    def merge(self, path, body):
        return self("PATCH", path, body, "application/merge-patch+json")


def is_ready(node):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node.get("status", {}).get("conditions", []))
