"""r0's reranker as a class of LangChain, LlamaIndex, Haystack and rerankers.

Each module imports its own library, which r0 does not install. The model runs in the same process, so that thoughts and settings
are at hand; a server of ``r0 serve`` needs none of these classes, since the libraries' own clients talk to it.
"""
