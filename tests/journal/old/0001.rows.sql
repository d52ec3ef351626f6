INSERT INTO meta VALUES ('schema', '1');

INSERT INTO enrollment (id, environment, channel, customer_id, method, state, version, created_at, updated_at, tries,
    generation, key_id, key_label)
VALUES ('20260101-00000000', 'test', 'ws', '1', 'api', 'accepted', 4, '2026-01-01 00:00:00.000000',
    '2026-01-01 00:00:00.000000', 0, 1, '', 'label');

INSERT INTO event (enrollment_id, at, actor, step, source, target, detail) VALUES
    ('20260101-00000000', '2026-01-01 00:00:00.000000', 'me', 'prepare', NULL, 'prepared', '{}'),
    ('20260101-00000000', '2026-01-01 00:00:01.000000', 'me', 'generate', 'prepared', 'keyed', '{}'),
    ('20260101-00000000', '2026-01-01 00:00:02.000000', 'me', 'submit', 'keyed', 'submitting', '{}'),
    ('20260101-00000000', '2026-01-01 00:00:03.000000', 'me', 'submit', 'submitting', 'accepted', '{}');

INSERT INTO answer (enrollment_id, operation, at, http_status, body, verdict) VALUES
    ('20260101-00000000', 'signNewCertificate', '2026-01-01 00:00:03.000000', 200, '', 'verified');
