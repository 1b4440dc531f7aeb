"""The OpenAPI 3.1 document: every app's ways in (run, stream, queue, realtime), tokens and storage.

It is made of the same pydantic models that refuse a bad request, and of models of what is answered.
"""

from realtime.openapi.document import document
from realtime.openapi.service import OpenApi

__all__ = ["OpenApi", "document"]
