"""Mails to people: what one is, and where it is handed over."""

from blindai.cloud.mail.message import Mailer, Message
from blindai.cloud.mail.outbox import Outbox
from blindai.cloud.mail.post import Post
from blindai.cloud.mail.smtp import Smtp

__all__ = ["Mailer", "Message", "Outbox", "Post", "Smtp"]
