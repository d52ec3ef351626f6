"""The certificate service: its interface, the SOAP client, verified answers and trust anchors."""
