"""Data sets by name: on the Hugging Face Hub, in ir_datasets, in folders of ``datasets`` and parquet.

A name becomes a local BEIR folder or a file of rows, once, where a command starts (``resolve``). All readers see files only.
"""
