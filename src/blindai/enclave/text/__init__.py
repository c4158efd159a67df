from blindai.enclave.text.session import TextSession, open_text

__all__ = ["TextSession", "open_text"]
