from blindai.custody.dashboard.application import application

__all__ = ["application"]
