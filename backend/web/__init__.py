"""The pages: server-rendered HTML over the services and the error table of the API. See docs/pages.md."""
