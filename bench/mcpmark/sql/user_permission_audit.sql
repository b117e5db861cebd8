CREATE TABLE security_audit_results (
    audit_id serial PRIMARY KEY,
    audit_type varchar(50) NOT NULL,
    total_issues integer NOT NULL,
    users_affected integer NOT NULL,
    tables_affected integer NOT NULL
);
CREATE TABLE security_audit_details (
    detail_id serial PRIMARY KEY,
    username varchar(50) NOT NULL,
    issue_type varchar(50) NOT NULL,
    table_name varchar(50),
    permission_type varchar(20),
    expected_access boolean NOT NULL
);

CREATE TEMP TABLE expected (username, table_name, permission) AS VALUES
/*EXPECTED*/;
CREATE TEMP TABLE actual AS
    SELECT p.grantee::text AS username, p.table_name::text, p.privilege_type::text AS permission
    FROM information_schema.table_privileges p
    JOIN pg_roles r ON r.rolname = p.grantee
    WHERE NOT r.rolsuper AND p.table_schema = 'public' AND p.table_name NOT LIKE 'security\_audit\_%';

INSERT INTO security_audit_details (username, issue_type, table_name, permission_type, expected_access)
    SELECT rolname, 'DANGLING_USER', NULL, NULL, false FROM pg_roles
    WHERE rolcanlogin AND NOT rolsuper AND rolname NOT IN (SELECT username FROM expected)
    UNION ALL
    (SELECT username, 'MISSING_PERMISSION', table_name, permission, true FROM expected
     EXCEPT SELECT username, 'MISSING_PERMISSION', table_name, permission, true FROM actual)
    UNION ALL
    (SELECT username, 'EXCESSIVE_PERMISSION', table_name, permission, false FROM actual
     EXCEPT SELECT username, 'EXCESSIVE_PERMISSION', table_name, permission, false FROM expected);

INSERT INTO security_audit_results (audit_type, total_issues, users_affected, tables_affected)
    SELECT issue_type || 'S', count(*), count(DISTINCT username), count(DISTINCT table_name)
    FROM security_audit_details GROUP BY issue_type;
