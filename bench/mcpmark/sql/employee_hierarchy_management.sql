/*NEW*/
UPDATE "Employee" SET "Title" = 'CEO' WHERE "EmployeeId" = 1;
UPDATE "Employee" SET "Phone" = '+1 (403) 555-9999' WHERE "EmployeeId" = 2;
UPDATE "Employee" SET "Title" = 'IT Specialist' WHERE "Title" = 'IT Staff';
UPDATE "Customer" SET "SupportRepId" = CASE WHEN "CustomerId" <= 3 THEN 9 ELSE 10 END WHERE "CustomerId" BETWEEN 1 AND 6;
UPDATE "Employee" SET "ReportsTo" = 1 WHERE "EmployeeId" IN (9, 10);

CREATE TABLE employee_performance (
    employee_id integer REFERENCES "Employee" ("EmployeeId"), customers_assigned integer, performance_score decimal
);
INSERT INTO employee_performance
    SELECT e.id, (SELECT count(*) FROM "Customer" WHERE "SupportRepId" = e.id), e.score
    FROM (VALUES (9, 4.5), (10, 4.2)) AS e (id, score);

UPDATE "Employee" SET "ReportsTo" = (SELECT "ReportsTo" FROM "Employee" WHERE "EmployeeId" = 7) WHERE "ReportsTo" = 7;
UPDATE "Customer" SET "SupportRepId" = (SELECT "ReportsTo" FROM "Employee" WHERE "EmployeeId" = 7)
    WHERE "SupportRepId" = 7;
DELETE FROM "Employee" WHERE "EmployeeId" = 7;

ALTER TABLE "Employee" ADD COLUMN salary decimal NOT NULL DEFAULT 50000.00;
UPDATE "Employee" SET "Title" = 'Senior IT Specialist', salary = 75000.00 WHERE "EmployeeId" = 8;
